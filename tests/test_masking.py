"""Secrets of the environment do not appear in what others say."""

import logging
import os

import pytest

from stic_ray import command_line
from stic_ray.masking import masked


def test_values_of_variables_that_are_secrets_are_masked_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "planted+long/er")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "planted+")
    monkeypatch.setenv("HOME_TOWN", "planted-town")
    monkeypatch.setenv("HF_TOKEN", "short")
    told = masked("planted+long/er and planted+ of planted-town, in short")
    assert told == "[AWS_SESSION_TOKEN] and [MLFLOW_TRACKING_PASSWORD] of planted-town, in short"


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_a_job_says_no_secret_in_its_log_its_error_or_its_trace(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "planted-secret")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    def work() -> str:
        logging.getLogger("stic_ray").warning("refused: %s", "planted-secret")
        raise error(os.environ["WANDB_API_KEY"] + " is no key")

    assert command_line.finish(work) == (2 if error is ValueError else 1)
    said = capsys.readouterr().err
    assert "planted-secret" not in said
    assert said.count("[WANDB_API_KEY]") == 2
    assert ("Traceback" in said) == (error is RuntimeError)
