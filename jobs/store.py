"""List, clean up and clear the store that runs share: `python jobs/store.py list|prune|forget [STORE] ...`."""

import sys

from stic_ray.inventory import main

if __name__ == "__main__":
    sys.exit(main())
