"""Fine-tuning on (selected) instruction samples: `python jobs/train_sft.py --config FILE [key=value ...]`."""

import sys

from stic_ray.launch import train_sft

if __name__ == "__main__":
    sys.exit(train_sft())
