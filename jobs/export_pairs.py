"""Pairs or samples for other tools: `python jobs/export_pairs.py RUN --format NAME --out FILE [--images WHICH]`."""

import sys

from stic_ray.exchange.export import main

if __name__ == "__main__":
    sys.exit(main())
