"""Visual information gain of instruction samples' answers: `python jobs/score_vig.py --config FILE [key=value ...]`."""

import sys

from stic_ray.launch import score_vig

if __name__ == "__main__":
    sys.exit(score_vig())
