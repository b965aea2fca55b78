"""How like benchmarks' images are to a run's: `python jobs/image_distribution.py --run runs/NAME --set NAME=FOLDER`."""

import sys

from stic_ray.image_distribution import main

if __name__ == "__main__":
    sys.exit(main())
