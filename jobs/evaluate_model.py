"""Models side by side on benchmarks: `python jobs/evaluate_model.py --model BASE --model NEW --benchmarks pope`."""

import sys

from stic_ray.evaluate_model import main

if __name__ == "__main__":
    sys.exit(main())
