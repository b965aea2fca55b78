"""Descriptions of instruction samples' images alone: `python jobs/describe.py --config FILE [key=value ...]`."""

import sys

from stic_ray.launch import describe

if __name__ == "__main__":
    sys.exit(describe())
