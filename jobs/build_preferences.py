"""Preference pairs from unlabeled images alone: `python jobs/build_preferences.py --config FILE [key=value ...]`."""

import sys

from stic_ray.launch import build_preferences

if __name__ == "__main__":
    sys.exit(build_preferences())
