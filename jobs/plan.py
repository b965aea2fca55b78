"""What a run takes, before a GPU is asked for: `python jobs/plan.py --config FILE --calibrate 100 --cluster FILE`."""

import sys

from stic_ray.planner.command import main

if __name__ == "__main__":
    sys.exit(main())
