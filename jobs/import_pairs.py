"""Another tool's pairs into the store: `python jobs/import_pairs.py imported.uri=FILE imported.format=NAME ...`."""

import sys

from stic_ray.launch import import_pairs

if __name__ == "__main__":
    sys.exit(import_pairs())
