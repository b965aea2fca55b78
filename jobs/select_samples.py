"""Samples and tokens that need their image: `python jobs/select_samples.py --config FILE [key=value ...]`."""

import sys

from stic_ray.launch import select_samples

if __name__ == "__main__":
    sys.exit(select_samples())
