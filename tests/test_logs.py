"""The two forms of a job's log."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_JOB = """
import logging, sys, threading
from stic_ray import logs
from stic_ray.command_line import finish
from stic_ray.standing import Ticker

def work():
    log = logging.getLogger("stic_ray.thing")
    log.info("before")
    with logs.about("own", "responses"):
        log.info("two\\nlines %d", 2)
        with Ticker(lambda: log.info("ticked"), every_s=60):
            pass
        try:
            1 / 0
        except ZeroDivisionError:
            log.exception("broken")
    logging.getLogger("other").info("not ours")
    logging.getLogger("other").warning("wrong elsewhere")
    raise ValueError("store is full")

sys.exit(finish(work, sys.argv[1]))
"""


def _logged(log: str) -> list[str]:
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", _JOB, log], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    return done.stderr.splitlines()


def test_json_log_is_a_line_each_with_run_role_and_level() -> None:
    lines = [json.loads(line) for line in _logged("json")]
    told = [(line["run"], line["role"], line["level"], line["message"]) for line in lines]
    assert told == [
        ("", "", "info", "before"),
        ("own", "responses", "info", "two\nlines 2"),
        ("own", "responses", "info", "ticked"),
        ("own", "responses", "info", "ticked"),
        ("own", "responses", "error", "broken"),
        ("", "", "warning", "wrong elsewhere"),
        ("", "", "error", "error: store is full"),
    ]
    assert "ZeroDivisionError" in lines[4]["trace"]
    assert all(line["time"].endswith("Z") and line["logger"] for line in lines)


def test_text_log_is_as_it_was() -> None:
    lines = _logged("text")
    assert lines[0].endswith(" before") and len(lines[0]) == len("12:34:56 before")
    assert lines[-1] == "error: store is full"


@pytest.mark.parametrize("job", ["stic_pipeline.py", "evaluate_model.py", "train_sft.py"])
def test_jobs_take_a_log_format(job: str) -> None:
    root = Path(__file__).resolve().parent.parent
    said = subprocess.run([sys.executable, f"jobs/{job}", "--help"], cwd=root, capture_output=True, text=True).stdout
    assert "--log {text,json}" in said
