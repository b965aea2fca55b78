"""Where a run's answers need the image: `python jobs/vig_report.py runs/NAME [--models]` writes a page."""

import sys

from stic_ray.vig_report import main

if __name__ == "__main__":
    sys.exit(main())
