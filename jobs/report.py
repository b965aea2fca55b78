"""A run's report.html again, or several runs in one page: `python jobs/report.py runs/NAME [runs/OTHER ...]`."""

import sys

from stic_ray.report.command import main

if __name__ == "__main__":
    sys.exit(main())
