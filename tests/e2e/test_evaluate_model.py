"""Models side by side on benchmarks, by the job: nothing is lost, a judge that fails invents nothing."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stic_ray.audit import audit_run
from stic_ray.world import splits

pytestmark = pytest.mark.slow
_ROOT = Path(__file__).parents[2]
_WAIT_S = 5  # for a judge's answer: long enough for one that answers on a busy machine
_QUICK = ["engine.type=Transformers", "execution.pool={min_size: 1, max_size: 1}", "model.dtype=float32"]


class _Judge(ThreadingHTTPServer):
    """A server that grades answers as MM-Vet's judge, and fails in every way by turns; it counts what it is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.wants_key = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: _Judge

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"][0]["content"]
        with self.server.lock:
            self.server.asked[asked] += 1
            attempt = self.server.asked[asked]
        number = int(asked.rpartition("Question: what is ")[2].partition(" ")[0])
        how = number % 6
        if self.server.wants_key and self.headers["authorization"] != f"Bearer {self.server.wants_key}":
            self._send(401, b"planted-secret is no key")
        elif how == 1 and attempt == 1:
            self._send(500, b"down")
        elif how == 2 and attempt == 1:
            self._send(429, b"slow down", ("Retry-After", "1"))
        elif how == 3:
            time.sleep(_WAIT_S + 2)  # longer than it is waited for
            self._send(200, _answer("Grade: 0.9"))
        elif how == 4:
            self._send(200, _answer("I cannot say."))
        elif how == 5 and attempt == 1:
            self._send(200, b"garbage")
        else:
            self._send(200, _answer(f"{number / 100}"))

    def _send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("content-length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def _answer(text: str) -> bytes:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}).encode()


@pytest.fixture
def judge() -> Iterator[_Judge]:
    server = _Judge()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()


def _evaluate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_ROOT / "jobs" / "evaluate_model.py"), *arguments]
    settings = {**os.environ, "PYTHONPATH": str(_ROOT), "JUDGE_KEY": "planted-secret"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=settings, timeout=300)


def _images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(splits.image_png("test", number))


def test_judge_that_fails_in_every_way_invents_no_grade_and_is_asked_once(tmp_path: Path, judge: _Judge) -> None:
    names = [f"v1_{number}.png" for number in range(24)]
    _images(tmp_path / "data" / "mmvet" / "images", names)
    questions = {
        f"v1_{number}": {"imagename": name, "question": f"what is {number} ?", "answer": "a", "capability": ["rec"]}
        for number, name in enumerate(names)
    }
    (tmp_path / "data" / "mmvet" / "mm-vet.json").write_text(json.dumps(questions))
    limits = f"timeout_s: {_WAIT_S}, max_attempts: 2"
    endpoint = f"{{type: Endpoint, url: '{judge.url}', model: j, key_variable: JUDGE_KEY, {limits}}}"
    call = ["--model", "embedded://models/base", "--benchmarks", "mmvet", "--data", "data", "name=judged", *_QUICK]
    call += [f"evaluation.judge={endpoint}", "evaluation.max_judge_failures=0.5", "evaluation.max_new_tokens=8"]
    done = _evaluate(tmp_path, *call)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs" / "judged" / "summary.json").read_text())
    # Numbers that are 3 (stalled) or 4 (no grade) modulo 6 have no verdict; the rest is graded by its number.
    graded = [number / 100 for number in range(24) if number % 6 not in (3, 4)]
    assert summary["base"]["mmvet"]["score"] == pytest.approx(100 * sum(graded) / len(graded))
    counts = summary["coverage"]["base"]["mmvet"]
    assert counts["asked"] == 24
    assert sum(number for reason, number in counts.items() if reason != "asked") == 8
    assert "not counted" in done.stdout
    assert "judge, base: 24 answers in " in done.stdout and "4 failed, 0.00 dollars" in done.stdout
    verdicts = json.loads((tmp_path / "runs" / "judged" / "artifacts.json").read_text())["verdicts_base"]
    record = json.loads((Path(verdicts) / "record.json").read_text())
    assert (record["counts"]["rows"], record["counts"]["rejects"]) == (16, 8)
    assert record["judge_failed"] == 4 and record["judge_attempts"] > record["judge_requests"] == 24
    assert audit_run(str(tmp_path / "runs" / "judged")).faults == []
    answers = json.loads((tmp_path / "runs" / "judged" / "answers" / "test" / "base" / "mmvet.json").read_text())
    assert list(answers) == sorted(questions) or answers.keys() == questions.keys()
    asked = sum(judge.asked.values())
    again = _evaluate(tmp_path, *call)
    assert again.returncode == 0, again.stderr
    assert sum(judge.asked.values()) == asked
    stricter = _evaluate(tmp_path, *call, "evaluation.max_judge_failures=0.1")
    assert (
        stricter.returncode == 2 and "the judge failed on 8 of 24 answers, in a run that accepted it" in stricter.stderr
    )
    unjudged = _evaluate(tmp_path, *call, "evaluation.judge=null", "name=unjudged")
    assert unjudged.returncode == 0, unjudged.stderr
    summary = json.loads((tmp_path / "runs" / "unjudged" / "summary.json").read_text())
    assert summary["coverage"]["base"]["mmvet"] == {"asked": 24, "there is no judge (evaluation.judge)": 24}
    assert sum(judge.asked.values()) == asked
    everything = [done.stdout, done.stderr, again.stderr]
    everything += [path.read_text() for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert not any("planted-secret" in text for text in everything)


def test_judge_that_fails_too_often_fails_the_run_and_a_key_that_is_wrong_says_so(
    tmp_path: Path, judge: _Judge
) -> None:
    _images(tmp_path / "data" / "mmvet" / "images", ["a.png"])
    entry = {"imagename": "a.png", "question": "what is 4 ?", "answer": "a", "capability": ["rec"]}
    (tmp_path / "data" / "mmvet" / "mm-vet.json").write_text(json.dumps({"v1_0": entry}))
    call = ["--model", "embedded://models/base", "--benchmarks", "mmvet", "--data", "data", *_QUICK]
    call.append("evaluation.max_new_tokens=8")
    endpoint = f"{{type: Endpoint, url: '{judge.url}', model: j, key_variable: NO_SUCH_KEY}}"
    done = _evaluate(tmp_path, *call, f"evaluation.judge={endpoint}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "evaluation.judge.key_variable is NO_SUCH_KEY, which is not set in the environment" in done.stderr
    done = _evaluate(tmp_path, *call, f"evaluation.judge={endpoint.replace('NO_SUCH_KEY', 'JUDGE_KEY')}")
    assert done.returncode == 2
    assert "verdicts: 1 of 1 inputs were rejected" in done.stderr
    assert "no verdict that can be read" in done.stderr and "See to the judge (evaluation.judge)" in done.stderr
    own = _evaluate(
        tmp_path, *call, "evaluation.judge={type: OwnModel, path: 'embedded://models/base', max_new_tokens: 8}"
    )
    assert own.returncode == 2
    assert "verdicts: 1 of 1 inputs were rejected, most often: the judge's answer holds no verdict" in own.stderr
    judge.wants_key = "another"
    before = sum(judge.asked.values())
    done = _evaluate(tmp_path, *call, f"evaluation.judge={endpoint.replace('NO_SUCH_KEY', 'JUDGE_KEY')}")
    assert done.returncode == 2
    assert "evaluation.judge.key_variable" in done.stderr.splitlines()[-1] and "planted" not in done.stderr
    assert sum(judge.asked.values()) - before == 1


def test_missing_images_are_counted_and_the_rest_is_compared_with_an_adapter_and_without(tmp_path: Path) -> None:
    names = [f"COCO_val2014_{number:012d}.jpg" for number in range(20)]
    _images(tmp_path / "data" / "pope" / "images", names[:15])
    rows = [
        {"question_id": 2 * number + turn, "image": name, "text": f"is there a {shape} ?", "label": label}
        for number, name in enumerate(names)
        for turn, (shape, label) in enumerate((("circle", "yes"), ("star", "no")))
    ]
    (tmp_path / "data" / "pope" / "coco_pope_random.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    call = ["--model", "embedded://models/base", "--model", "aligned=embedded://models/aligned", "--benchmarks", "pope"]
    call += ["--data", "data", "--describe-first", "name=compared", *_QUICK, "execution.max_reject_rate=0.3"]
    done = _evaluate(tmp_path, *call, "evaluation.max_new_tokens=8")
    assert done.returncode == 0, done.stderr
    home = tmp_path / "runs" / "compared"
    summary = json.loads((home / "summary.json").read_text())
    for model in ("base", "aligned"):
        for task in ("pope", "pope_dar"):
            assert summary["coverage"][model][task] == {"asked": 40, "the image file is missing": 10}
    assert set(summary["base"]["pope"]) >= {"accuracy", "f1", "random"}
    assert "aligned against base" in done.stdout
    assert "aligned minus base" in (home / "report.md").read_text()
    lines = (home / "answers" / "test" / "aligned" / "pope_random.jsonl").read_text().splitlines()
    assert len(lines) == 30 and set(json.loads(lines[0])) == {"question_id", "image", "question", "answer"}
    assert audit_run(str(home)).faults == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmarks", "pope"], "--benchmarks and --data go together"),
        (["--benchmarks", "popee", "--data", "data"], "there is no benchmark 'popee': choose of pope, chair"),
        (["--benchmarks", "chair", "--data", "data"], "has none of instances_val2014.json, objects.jsonl"),
        (["--model", "embedded://models/base"], "--model: two models have one name"),
        (["--model", "nowhere"], "nowhere does not exist"),
        (["--limit", "0"], "limit is 0: it must be above 0"),
        (["--model", "dev=embedded://models/aligned"], "--model dev: another entry of the summary is called so"),
    ],
)
def test_mistake_is_one_clear_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = _evaluate(tmp_path, "--model", "embedded://models/base", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
