"""What a run leaves in `runs/NAME/`: references, configuration, metrics, models, summary and report."""

import json
import logging
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from stic_ray import artifacts, storage
from stic_ray.artifacts import MODEL, REFERENCES, ROUND
from stic_ray.config import Chair, Config, to_tree
from stic_ray.evaluate import answer_files
from stic_ray.evaluate.intervals import Bootstrap
from stic_ray.evaluate.measured import Measured
from stic_ray.evaluate.summary import main_figures, paired_difference, questions_by_group, split_block
from stic_ray.records import Pair
from stic_ray.report import distribution_page, lmms, vig_page
from stic_ray.report.collect import SUMMARY, read_distribution, stage_line
from stic_ray.report.command import write_page
from stic_ray.report.folder import PAGE, RunFolder
from stic_ray.report.markdown import (
    CONTROLS,
    Comparison,
    DescribedImage,
    Report,
    TrainingLine,
    model_title,
    render_report,
    render_table,
)
from stic_ray.report.model_card import add_scores
from stic_ray.run import Run
from stic_ray.train.job import ADAPTER, CARD, MERGED, METRICS

_NUM_SAMPLES = 6
logger = logging.getLogger(__name__)


def write_run(run: Run, measured: Mapping[str, Measured], command: list[str]) -> str:
    """Write `runs/NAME/` and return the closing summary for whoever started the run."""
    home = run.home
    summary, report, _ = _summarise(run, measured, _of_stages(measured), command)
    storage.write_bytes(storage.join(home, METRICS), _metrics(run).encode())
    _write_models(run, home, summary)
    _write_reports(run, report, command)
    _remove_stale_pages(run)
    run.deliver()  # last: until then the run is not finished
    return _closing(run, home, summary) + _push(run, home)


def write_comparison(run: Run, measured: Mapping[str, Measured], command: list[str]) -> str:
    """Write what a comparison of models leaves in `runs/NAME/`, their answers in the benchmarks' own files too, and
    return the closing summary."""
    first, *others = measured["test"].predictions
    summary, report, comparisons = _summarise(run, measured, [(other, first) for other in others], command)
    _write_reports(run, report, command)
    folder = storage.join(run.home, "answers")
    storage.remove(folder)  # of the run that had this name before
    for split, found in measured.items():
        for name, tasks in found.predictions.items():
            for task, rows in tasks.items():
                for ending, data in answer_files.write(found.truth.benchmarks[task], rows).items():
                    storage.write_bytes(storage.join(folder, split, name, f"{task}{ending}"), data)
    run.deliver()  # last: until then the run is not finished
    lines = [render_table(summary), *_tell(comparisons), *_judged(run), *_reports(run.home)]
    return "\n".join(["", *lines, f"answers       {folder}    (in the benchmarks' own formats)", ""])


def _summarise(
    run: Run, measured: Mapping[str, Measured], pairs: Sequence[tuple[str, str]], command: list[str]
) -> tuple[dict[str, Any], Report, list[Comparison]]:
    """summary.json, what report.md says, and the comparisons of pairs of models."""
    config = run.config
    bootstrap = Bootstrap(resamples=config.evaluation.resamples if config.evaluation else 1, seed=config.seed)
    comparisons = _comparisons(measured, pairs, bootstrap)
    summary = _summary(config, measured, bootstrap) | _differences(comparisons)
    report = Report(
        name=config.name,
        command=shlex.join(command),
        summary=summary,
        stages=[stage_line(role, each, reused=role in run.reused) for role, each in run.artifacts.items()],
        samples=_samples(run, measured),
        training=_training(run),
        comparisons=comparisons,
        groups=_groups(measured),
        artifacts={role: artifact.uri for role, artifact in run.artifacts.items()},
    )
    return summary, report, comparisons


def _write_reports(run: Run, report: Report, command: list[str]) -> None:
    """Settings, summary and both reports; the page reads what else is in the folder."""
    write_config(run.config, run.home, command)
    _write_json(storage.join(run.home, SUMMARY), report.summary)
    storage.write_bytes(storage.join(run.home, "report.md"), render_report(report).encode())
    write_page(_folder(run))


def _folder(run: Run) -> RunFolder:
    return RunFolder(uri=run.home, config=run.config, artifacts=run.artifacts)


def _remove_stale_pages(run: Run) -> None:
    """Those of the run that had this name before; a map of the same images by the same model is this one's too, and
    lmms-eval's figures of the same models."""
    pages = [vig_page.HTML, vig_page.JSON]
    if read_distribution(_folder(run)) is None:
        pages += [distribution_page.HTML, distribution_page.JSON]
    if not lmms.read(_folder(run)):
        pages.append(lmms.JSON)
    for page in pages:
        storage.remove(storage.join(run.home, page))


def _reports(home: str) -> list[str]:
    return [
        f"report        {storage.join(home, PAGE)}",
        f"              {storage.join(home, 'report.md')}    (figures and descriptions as markdown)",
    ]


def _tell(comparisons: Sequence[Comparison]) -> list[str]:
    """How many figures a model is surely better or worse in."""
    return [
        f"{each.model} against {each.against}: {sum(low > 0 or high < 0 for _, low, high in each.figures.values())} of "
        f"{len(each.figures)} figures differ (paired bootstrap over images, 95%)"
        for each in comparisons
    ]


def _judged(run: Run) -> list[str]:
    """What the judge was asked in this run or before, and what it cost, a line a model."""
    lines = []
    for role, artifact in run.artifacts.items():
        if role.startswith("verdicts_") and "judge_requests" in artifact.record:
            told = {name: artifact.record[f"judge_{name}"] for name in ("requests", "attempts", "failed", "cost")}
            lines.append(
                f"judge, {role.removeprefix('verdicts_')}: {told['requests']:.0f} answers in {told['attempts']:.0f} "
                f"attempts, {told['failed']:.0f} failed, {told['cost']:.2f} dollars"
            )
    return lines


def write_trial(run: Run, measured: Mapping[str, Measured]) -> None:
    """Write what a trial of a sweep leaves in its folder: settings, figures, metrics and references, but no model."""
    summary, _, _ = _summarise(run, measured, (), [])
    write_config(run.config, run.home, [])
    _write_json(storage.join(run.home, SUMMARY), summary)
    storage.write_bytes(storage.join(run.home, METRICS), _metrics(run).encode())
    run.deliver()


def write_stages(run: Run, command: list[str]) -> str:
    """Write what stages that ran without the rest leave in `runs/NAME/`, and return the closing lines."""
    home = run.home
    write_config(run.config, home, command)
    run.deliver()
    lines = []
    for role, made in run.artifacts.items():
        counts = made.record["counts"]
        lines.append(f"{role:<14}{counts['rows']:>9} rows {counts['rejects']:>7} rejects  {made.uri}")
    lines.append(f"run           {home}    ({REFERENCES} names the artifacts, config.yaml the settings)")
    return "\n".join([*lines, ""])


def write_config(config: Config, home: str, command: list[str]) -> None:
    """Every setting, below the command that they were given to."""
    head = "".join(f"# {line}\n" for line in shlex.join(command).splitlines())
    text = head + yaml.safe_dump(to_tree(config), sort_keys=False)
    storage.write_bytes(storage.join(home, "config.yaml"), text.encode())


def _summary(config: Config, measured: Mapping[str, Measured], bootstrap: Bootstrap) -> dict[str, Any]:
    """summary.json: the test split's blocks, their intervals, which figures are shown (`figures`), what was asked and
    what of it has no figure (`coverage`), and the same of the dev split under `dev`."""
    blocks = {
        split: {
            **split_block(found.predictions, found.truth, bootstrap),
            "figures": main_figures(found.predictions, found.truth),
            "coverage": found.coverage,
        }
        for split, found in measured.items()
    }
    controls = _controls(config)
    if controls != CONTROLS:
        for block in blocks.values():
            block["controls"] = controls
    summary: dict[str, Any] = blocks.get("test", {})
    return {**summary, "dev": blocks["dev"]} if "dev" in blocks else summary


def _controls(config: Config) -> dict[str, str]:
    """What the controls are trained on, by the stage that they stand beside."""
    told = dict(CONTROLS)
    if config.annotated is not None or config.imported is not None:
        told["stage1"] = "SFT on the preferred answers only"
    if config.rounds > 1:
        told["stage1"] += ", of the last round and from the model of the one before"
    stage1, control = config.stage1, config.stage1_control
    if stage1 is not None and control is not None and stage1.selection != control.selection:
        told["stage1"] += ", with another selection of pairs"
    stage2, control = config.stage2, config.stage2_control
    if stage2 is not None and control is not None and stage2.selection != control.selection:
        plain = "without descriptions and " if config.prompts.infused else ""
        told["stage2"] = f"the same training {plain}with another selection of samples"
    return told


def _of_stages(measured: Mapping[str, Measured]) -> list[tuple[str, str]]:
    """Which of a run's models are compared, each with which."""
    rounds = (
        [name for name in measured["test"].predictions if name.startswith(f"stage1{ROUND}")]
        if "test" in measured
        else []
    )
    steps = [*zip([*rounds, "stage1"][1:], rounds, strict=True)]
    return [
        ("stage1", "base"),
        *steps,
        ("stage1", "stage1_control"),
        ("stage2", "base"),
        ("stage2", "stage2_control"),
    ]


def _comparisons(
    measured: Mapping[str, Measured], pairs: Sequence[tuple[str, str]], bootstrap: Bootstrap
) -> list[Comparison]:
    """The differences of each pair of models that there is, on the test split."""
    if "test" not in measured:
        return []
    test = measured["test"]
    comparisons = []
    for model, against in pairs:
        if model not in test.predictions or against not in test.predictions:
            continue
        runs = [test.predictions[model]], [test.predictions[against]]
        found = paired_difference(*runs, test.truth, bootstrap)
        figures = {name: (entry.value, entry.low, entry.high) for name, entry in found.items()}
        comparisons.append(Comparison(model=model, against=against, figures=figures))
    return comparisons


def _differences(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What summary.json has of the comparisons: [difference, low, high] by model, the other model and figure."""
    found: dict[str, dict[str, Any]] = {}
    for each in comparisons:
        figures = {name: list(difference) for name, difference in each.figures.items()}
        found.setdefault(each.model, {})[each.against] = figures
    return {"differences": found} if found else {}


def _groups(measured: Mapping[str, Measured]) -> dict[str, Any]:
    if "test" not in measured:
        return {}
    test = measured["test"]
    return {name: questions_by_group(rows, test.truth) for name, rows in test.predictions.items()}


def _training(run: Run) -> list[TrainingLine]:
    found = {name: run.artifacts[name].record for name in _trained(run)}
    return [
        TrainingLine(stage=name, first=record["first"], last=record["last"], exported=record["exported"])
        for name, record in found.items()
    ]


def _trained(run: Run) -> list[str]:
    """The roles of the models that the run made, in order."""
    return [role for role, artifact in run.artifacts.items() if artifact.record["kind"] == MODEL]


def _delivered(run: Run) -> list[str]:
    """Those that are no controls."""
    return [role for role in _trained(run) if role.partition(ROUND)[0] in ("stage1", "stage2")]


def _samples(run: Run, measured: Mapping[str, Measured]) -> list[DescribedImage]:
    """Descriptions of a few test images by every model; without ground truth, the first pairs' two answers."""
    if "test" not in measured:
        made = [run.artifacts[role] for role in ("pairs", "annotated_pairs", "imported_pairs") if role in run.artifacts]
        pairs = next(artifacts.iterate(made[0].uri, Pair), [])[:_NUM_SAMPLES] if made else []
        return [
            DescribedImage(
                image=pair.image_uri,
                prompt=pair.prompt,
                objects=(),
                descriptions={"preferred": pair.chosen, f"dispreferred ({pair.negative})": pair.rejected},
            )
            for pair in pairs
        ]
    test = measured["test"]
    described = [task for task, benchmark in test.truth.benchmarks.items() if isinstance(benchmark, Chair)]
    if not described:
        return []
    by_model = {
        name: {row.image_uri: row for row in tasks.get(described[0], ())} for name, tasks in test.predictions.items()
    }
    first = next(iter(by_model.values()))
    return [
        DescribedImage(
            image=uri,
            prompt=first[uri].question,
            objects=first[uri].answers,
            descriptions={name: rows[uri].text for name, rows in by_model.items() if uri in rows},
        )
        for uri in sorted(first)[:_NUM_SAMPLES]
    ]


def _metrics(run: Run) -> str:
    """Every training's metrics as JSON lines, flat under `stage/name`."""
    lines = []
    for stage in _trained(run):
        for line in storage.read_text(storage.join(run.artifacts[stage].uri, METRICS)).splitlines():
            values = json.loads(line)
            step = values.pop("step")
            lines.append(json.dumps({"step": step, **{f"{stage}/{name}": value for name, value in values.items()}}))
    return "".join(f"{line}\n" for line in lines)


def _write_models(run: Run, home: str, summary: Mapping[str, Any]) -> None:
    """Copies, not links: whoever edits a file of a run must not change the store."""
    delivered = _delivered(run)
    for stage in (uri.rpartition("/")[2] for uri in storage.list_directories(home)):
        # Not trained this time: an earlier run's would be taken for its own.
        if stage.partition(ROUND)[0] in ("stage1", "stage2") and stage not in delivered:
            logger.info("%s: removed, of the run that had this name before", storage.join(home, stage))
            storage.remove(storage.join(home, stage))
    for stage in delivered:
        for part in (ADAPTER, MERGED):
            source, target = storage.join(run.artifacts[stage].uri, part), storage.join(home, stage, part)
            if storage.exists(source):
                storage.mirror_directory(source, target)
                card = add_scores(storage.read_text(storage.join(source, CARD)), stage, summary)
                storage.write_bytes(storage.join(target, CARD), card.encode())
            else:  # without an adapter, as above
                storage.remove(target)


def _push(run: Run, home: str) -> str:
    """The last model on the hub, its adapter below it; the line that says where."""
    trained = _delivered(run)
    if run.config.hub is None or not trained:
        return ""
    from stic_ray import hub  # its HTTP client takes half a second

    merged, adapter = (storage.join(home, trained[-1], part) for part in (MERGED, ADAPTER))
    folders = {"": merged, **({ADAPTER: adapter} if storage.exists(adapter) else {})}
    return f"pushed        {hub.push(run.config.hub, folders)}\n"


def _closing(run: Run, home: str, summary: Mapping[str, Any]) -> str:
    distinct = {artifact.uri: artifact.record for artifact in run.artifacts.values()}
    rejects, left_out = 0, 0
    for record in distinct.values():
        selects = record["stage"].endswith("_selection")
        rejects += 0 if selects else record["counts"]["rejects"]
        left_out += record["counts"]["rejects"] if selects else 0
    told = f"{rejects} inputs rejected" + (f", {left_out} not selected" if left_out else "")
    made = len(run.artifacts) - len(run.reused)
    seconds = time.monotonic() - run.started
    trained = _delivered(run)
    starts = ["the base", *map(model_title, trained)]
    if run.config.stage1_before:
        starts = [
            "the last of stage1_before" if stage != "stage2" else start
            for stage, start in zip(trained, starts, strict=False)
        ]
    models = [f"model         {storage.join(home, trained[-1], MERGED)}"] if trained else []
    models += [
        f"adapter       {storage.join(home, stage, ADAPTER)} (on {start})"
        for stage, start in zip(trained, starts, strict=False)
        if storage.exists(storage.join(home, stage, ADAPTER))
    ]
    return "\n".join(
        [
            "",
            render_table(summary),
            *_judged(run),
            "",
            f"{made} artifacts made, {len(run.reused)} reused, {told}, {seconds:.0f} s",
            *_reports(home),
            *models,
            f"next          {sys.executable} -m stic_ray.audit {home}    proves that no input was lost",
            "              on your own model and images: see README.md, or --help",
            "",
        ]
    )


def _write_json(uri: str, tree: Any) -> None:
    storage.write_bytes(uri, (json.dumps(tree, indent=1) + "\n").encode())
