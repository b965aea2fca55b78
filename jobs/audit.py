"""Prove that a run lost and doubled nothing: `python jobs/audit.py runs/NAME`."""

import sys

from stic_ray.audit import main

if __name__ == "__main__":
    sys.exit(main())
