"""Benchmarks by lmms-eval: `python jobs/lmms_eval.py runs/NAME --python ENV/bin/python --tasks mmstar`."""

import sys

from stic_ray.lmms_eval import main

if __name__ == "__main__":
    sys.exit(main())
