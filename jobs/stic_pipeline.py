"""STIC end to end: `python jobs/stic_pipeline.py [--recipe NAME | --config FILE] [key=value ...]`."""

import sys

from stic_ray.launch import main

if __name__ == "__main__":
    sys.exit(main())
