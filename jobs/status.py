"""Where a run stands, how fast it goes, until when: `python jobs/status.py runs/NAME`."""

import sys

from stic_ray.status_command import main

if __name__ == "__main__":
    sys.exit(main())
