"""Evaluation runs of ensembles: parents of their members' runs, with plans, scores, report and verdict."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag

from backdrop.common import storage
from backdrop.common.errors import BackdropError, TrackingError, shorten
from backdrop.common.names import checked_name
from backdrop.common.progress import log
from backdrop.config import Ensemble
from backdrop.config.folds import PLAN
from backdrop.config.records import dump_yaml, parse, parse_yaml, read_text
from backdrop.evaluation.gate import Verdict
from backdrop.evaluation.records import (
    DICE,
    IMAGES,
    MEASURES,
    METRICS,
    PAGE,
    SPEED,
    STATISTICS,
    WORST,
    Estimate,
    Evaluation,
    Score,
    read_scores,
    require_scores,
)
from backdrop.evaluation.statistics import Statistics, read_statistics
from backdrop.inference.member import CONFIG
from backdrop.report import Standing, with_verdict
from backdrop.tracking.artifacts import file_sizes, require_as_listed
from backdrop.tracking.cache import fetch_once
from backdrop.tracking.client import connect, find_runs, server_errors
from backdrop.tracking.members import run_of
from backdrop.tracking.model_card import Facts, evaluation_card
from backdrop.tracking.runs import KIND, PARENT, OpenRun, flatten

DIGEST = "backdrop.digest"
PLAN_DIGEST = "backdrop.plan"
MEMBERS = "members.json"
REPORT = "report"
FILES = "backdrop.files"  # JSON: the sizes in bytes of the files that never change, by name
VERDICT = "verdict.json"
CHAMPIONS, CHAMPION_SCORES = "champions", "backdrop.champion"  # a folder, and the beginning of tags
FIXED = (METRICS, IMAGES, MEASURES, STATISTICS, WORST, SPEED)  # a report's files that never change
NOTE = "mlflow.note.content"  # a run's description
DATASET_DIGEST = 36  # characters, MLflow's maximum


@dataclass(frozen=True)
class Findings:
    """The content of an evaluation run.

    Attributes:
        config: the ensemble.
        members: each member's address by its name.
        plans: each plan's bytes by its file name, the ensemble's own first.
        metadata: what the gate groups objects by, of `metadata.csv`; empty if it groups by nothing there.
        data: the dataset's address.
        data_digest: the digest of the data in the plans.
        report: the folder that `evaluate` wrote.
        evaluation: the content of its `metrics.json`.
        facts: what the card says, without the run.
        runs: the addresses of the members that are in MLflow; their runs become children of the evaluation's.
    """

    config: Ensemble
    members: Mapping[str, str]
    plans: Mapping[str, bytes]
    metadata: bytes
    data: str
    data_digest: str
    report: Path
    evaluation: Evaluation
    facts: Facts
    runs: Sequence[str]


def find_evaluation(digest: str, plans: Mapping[str, bytes], metadata: bytes) -> str | None:
    """The id of the newest finished run that evaluated this ensemble with these plans; None if there is none.

    A run that has lost files is logged and skipped.

    Args:
        digest: the ensemble's.
        plans: each plan's bytes, as in `Findings`.
        metadata: also as there.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    client = connect()
    for run in find_runs(client, f"{_filter(digest, _digest(plans, metadata))} and attributes.status = 'FINISHED'"):
        lost = _lost(run, _sizes(client, run.info.run_id))
        if not lost:
            return str(run.info.run_id)
        log(f"Evaluation run {run.info.run_id} isn't reused: MLflow has lost its {', '.join(lost)}")
    return None


def log_evaluation(digest: str, findings: Findings) -> str:
    """Writes the evaluation run, and makes it the parent of members' runs that have no parent.

    It resumes a run that a killed call left.

    Args:
        digest: the ensemble's.
        findings: what to log.

    Returns:
        The run's id.

    Raises:
        TrackingError: if the server doesn't answer; you can then make the same call again.
    """
    tags = _tags(digest, findings)
    query = f"{_filter(digest, tags[PLAN_DIGEST])} and attributes.status != 'FINISHED'"
    with OpenRun(findings.config.name, tags, query) as run, server_errors("The evaluation's run can't be written"):
        _log_values(run.client, run.run, run.tags, findings)
        _log_files(run.client, run.run_id, findings)
        for address in findings.runs:
            _adopt(run.client, run.run_id, run_of(address))
        run.close()
        return run.run_id


def fetch_evaluation(run_id: str) -> Path:
    """A folder with the run's plans, `ensemble.yaml`, `metrics.json` and `images.csv`, copied to the cache once.

    Raises:
        TrackingError: if MLflow has lost them, `images.csv` was changed, or the server doesn't answer.
        StorageError: if it can't be written.
    """

    def fill(folder: Path) -> None:
        client = connect()
        with server_errors(f"Evaluation run {run_id} can't be fetched"), tempfile.TemporaryDirectory() as scratch:
            sizes = _check(client, client.get_run(run_id))
            plans = {name for name in sizes if "/" not in name and Path(name).suffix == ".csv"}
            for name in (*(plans | {PLAN}), CONFIG, f"{REPORT}/{METRICS}", f"{REPORT}/{IMAGES}"):
                path = _download(client, run_id, checked_name(name, f"Run {run_id}"), sizes, scratch)
                (folder / path.name).write_bytes(path.read_bytes())
        _require_unchanged(folder, run_id)

    return fetch_once(
        storage.cache_folder() / "evaluations" / checked_name(run_id, "A version's tag", folders=False), fill
    )


def fetch_ensemble(run_id: str) -> Ensemble:
    """The ensemble of an evaluation run, with what was learned by it; nothing is kept in the cache.

    Raises:
        TrackingError: if MLflow has lost it, or the server doesn't answer.
        ConfigError: if its YAML isn't valid.
    """
    client = connect()
    what = f"Evaluation run {run_id} can't be fetched"
    with server_errors(what), tempfile.TemporaryDirectory() as scratch:
        sizes = _check(client, client.get_run(run_id))
        return read_ensemble(_download(client, run_id, CONFIG, sizes, scratch).parent)


def fetch_statistics(run_id: str) -> list[Statistics]:
    """The statistics of an evaluation's photographs; nothing is kept in the cache.

    Raises:
        TrackingError: if MLflow has lost them, or the server doesn't answer.
        StorageError: if they are damaged.
    """
    client = connect()
    what = f"The statistics of evaluation run {run_id} can't be fetched"
    with server_errors(what), tempfile.TemporaryDirectory() as scratch:
        sizes = _check(client, client.get_run(run_id))
        return read_statistics(_download(client, run_id, f"{REPORT}/{STATISTICS}", sizes, scratch))


def read_ensemble(folder: Path) -> Ensemble:
    """The ensemble of an evaluation, which `fetch_evaluation` copied.

    Raises:
        ConfigError: if its YAML isn't valid.
    """
    text = read_text(folder / CONFIG, "ensemble")
    return parse(Ensemble, parse_yaml(text, CONFIG), CONFIG)


def log_verdict(run_id: str, verdict: Verdict, standing: Standing) -> None:
    """Adds the verdict to an evaluation run: on its report's page, and as `verdict.json` if the gate has judged.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    client = connect()
    with server_errors("The verdict can't be written"), tempfile.TemporaryDirectory() as scratch:
        sizes = _check(client, client.get_run(run_id))
        page = _download(client, run_id, f"{REPORT}/{PAGE}", sizes, scratch)
        page.write_text(with_verdict(page.read_text(encoding="utf-8"), verdict, standing), encoding="utf-8")
        client.log_artifact(run_id, str(page), REPORT)
        if verdict.outcome != "unchanged":
            client.log_text(run_id, f"{verdict.model_dump_json(indent=2)}\n", VERDICT)


def _require_unchanged(folder: Path, run_id: str) -> None:
    """Makes sure that an evaluation's `images.csv` is the one that was written with its `metrics.json`.

    Raises:
        TrackingError: if it isn't.
    """
    try:
        text = (folder / METRICS).read_text(encoding="utf-8")
        require_scores(folder / IMAGES, parse(Evaluation, parse_yaml(text, METRICS), METRICS).scores)
    except BackdropError as error:
        what = f"{REPORT}/{IMAGES} of evaluation run {run_id} doesn't belong to its {METRICS} ({shorten(error)})"
        raise TrackingError(what, "Run `backdrop evaluate` and `backdrop register` again") from error


def log_champion_scores(run_id: str, champion: str, path: Path) -> None:
    """Adds a champion's scores on an evaluation's holdout, which may be those of a later champion each time.

    Args:
        run_id: of the evaluation.
        champion: the digest of the champion's ensemble.
        path: the scores, as `dump_scores` writes them.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    client, name = connect(), _champion(champion)
    with server_errors("The champion's scores can't be written"):
        client.log_text(run_id, path.read_text(encoding="utf-8"), f"{CHAMPIONS}/{name}.csv")
        client.set_tag(run_id, f"{CHAMPION_SCORES}.{name}", storage.sha256(path.read_bytes()))  # marks them as whole


def find_champion_scores(run_id: str, champion: str) -> list[Score] | None:
    """A champion's scores on an evaluation's holdout; None if they weren't added, or were lost or changed since.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    client, name = connect(), _champion(champion)
    with server_errors("The champion's scores can't be read"), tempfile.TemporaryDirectory() as scratch:
        digest = client.get_run(run_id).data.tags.get(f"{CHAMPION_SCORES}.{name}")
        if not digest:
            return None
        sizes, file = _sizes(client, run_id), f"{CHAMPIONS}/{name}.csv"
        if file not in sizes:
            return None
        path = _download(client, run_id, file, sizes, scratch)
        return read_scores(path) if storage.sha256(path.read_bytes()) == digest else None


def _champion(digest: str) -> str:
    return digest[:16]


def find_verdict(run_id: str) -> Verdict | None:
    """The verdict that stands on an evaluation run's report; None if it wasn't judged.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    client = connect()
    with server_errors("The verdict can't be read"), tempfile.TemporaryDirectory() as scratch:
        sizes = _sizes(client, run_id)
        if VERDICT not in sizes:
            return None
        text = read_text(_download(client, run_id, VERDICT, sizes, scratch), "verdict")
        return parse(Verdict, parse_yaml(text, VERDICT), VERDICT)


def _digest(plans: Mapping[str, bytes], metadata: bytes) -> str:
    return storage.sha256(b"".join([*plans.values(), metadata]))


def _filter(digest: str, plan: str) -> str:
    return f"tags.`{DIGEST}` = '{digest}' and tags.`{PLAN_DIGEST}` = '{plan}'"


def _tags(digest: str, findings: Findings) -> dict[str, str]:
    return {
        KIND: "ensemble",
        DIGEST: digest,
        PLAN_DIGEST: _digest(findings.plans, findings.metadata),
        "backdrop.data": findings.data_digest,
    }


def _log_values(client: MlflowClient, run: Run, tags: dict[str, str], findings: Findings) -> None:
    """Logs tags, parameters, metrics and the dataset; metrics have the run's start as time, so a retry adds nothing."""
    values = flatten(findings.config.model_dump(mode="json"))
    card = evaluation_card(findings.facts.model_copy(update={"evaluation": run.info.run_id}))
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(key, value, run.info.start_time, 0) for key, value in _metrics(findings.evaluation)],
        params=[Param(key, value) for key, value in values if key not in run.data.params],
        tags=[RunTag(key, value) for key, value in {**tags, NOTE: card}.items()],
    )
    digest = findings.data_digest.removeprefix("sha256:")[:DATASET_DIGEST]
    source = json.dumps({"uri": findings.data})
    source_type = "s3" if storage.is_remote(findings.data) else "local"
    client.log_inputs(run.info.run_id, [DatasetInput(Dataset("dataset", digest, source_type, source))])


def _metrics(evaluation: Evaluation) -> Iterator[tuple[str, float]]:
    """Each figure by its name, such as `holdout_dice`, `oof_dice.tiny`, `holdout_dice.tiny-0`, `oof_boundary_iou`."""
    yield from _estimate("holdout_dice", evaluation.holdout.ensemble)
    yield from _estimate("oof_dice", evaluation.oof_ensemble)
    for name, estimate in evaluation.oof.items():
        yield f"oof_dice.{name}", estimate.dice
    for name, estimate in evaluation.holdout.members.items():
        yield f"holdout_dice.{name}", estimate.dice
    yield "holdout_objects", float(evaluation.holdout.objects)
    for part, quality in evaluation.quality.items():
        yield from ((f"{part}_{name}", one.mean) for name, one in quality.measures.items() if name != DICE)
        yield f"{part}_calibration_error", quality.calibration.error


def _estimate(name: str, estimate: Estimate | None) -> Iterator[tuple[str, float]]:
    if estimate is None:
        return
    yield name, estimate.dice
    if estimate.low is not None and estimate.high is not None:
        yield f"{name}_low", estimate.low
        yield f"{name}_high", estimate.high


def _log_files(client: MlflowClient, run_id: str, findings: Findings) -> None:
    for name in (PAGE, *FIXED):
        client.log_artifact(run_id, str(findings.report / name), REPORT)
    members = f"{json.dumps(dict(findings.members), indent=2)}\n".encode()
    texts = {**findings.plans, CONFIG: dump_yaml(findings.config).encode(), MEMBERS: members}
    for name, data in texts.items():
        client.log_text(run_id, data.decode(), name)
    sizes = {f"{REPORT}/{name}": (findings.report / name).stat().st_size for name in FIXED}
    sizes |= {name: len(data) for name, data in texts.items()}
    client.set_tag(run_id, FILES, json.dumps(sizes))


def _sizes(client: MlflowClient, run_id: str) -> dict[str, int]:
    """The sizes of the run's files in MLflow, by name."""
    with server_errors(f"The files of run {run_id} can't be listed"):
        return file_sizes(partial(client.list_artifacts, run_id))


def _lost(run: Run, sizes: Mapping[str, int]) -> list[str]:
    """The names of the run's files that are gone or not as long as they were."""
    written = json.loads(run.data.tags.get(FILES, "{}"))
    page = f"{REPORT}/{PAGE}"  # its length changes with the verdict
    return [name for name, size in {**written, page: sizes.get(page)}.items() if not size or sizes.get(name) != size]


def _check(client: MlflowClient, run: Run) -> dict[str, int]:
    """Makes sure that MLflow still has the run's files, and returns their sizes by name.

    Raises:
        TrackingError: if it hasn't.
    """
    sizes = _sizes(client, run.info.run_id)
    if lost := _lost(run, sizes):
        what = f"MLflow has lost {', '.join(lost)} of evaluation run {run.info.run_id}"
        raise TrackingError(what, "Run `backdrop evaluate` and `backdrop register` again for the same members")
    return sizes


def _download(client: MlflowClient, run_id: str, name: str, sizes: Mapping[str, int], scratch: str) -> Path:
    path = Path(client.download_artifacts(run_id, name, scratch))
    require_as_listed(path.parent, {path.name: sizes[name]}, f"evaluation run {run_id}")
    return path


def _adopt(client: MlflowClient, parent: str, run_id: str) -> None:
    if parent != run_id and PARENT not in client.get_run(run_id).data.tags:
        client.set_tag(run_id, PARENT, parent)
