"""stic_ray: self-training of vision-language models on Ray (STIC, VIG, BPO)."""

__version__ = "0.1.0"
