"""Sweeps: `python jobs/sweep.py [--recipe NAME | --config FILE] [key=value ...]`."""

import sys

from stic_ray.launch import sweep

if __name__ == "__main__":
    sys.exit(sweep())
