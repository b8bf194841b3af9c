"""`drift`: whether new photographs still look like those that a model was judged on; nobody has to label them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from backdrop.common.errors import ConfigError, DataError, MemberError
from backdrop.common.lock import alone
from backdrop.common.outputs import output_folder
from backdrop.common.progress import log, progress, working
from backdrop.common.words import count
from backdrop.data.dataset import read_image
from backdrop.data.folds import HOLDOUT
from backdrop.data.listing import PassedOver
from backdrop.data.photographs import Source, find_photographs
from backdrop.data.rle import decode_rle
from backdrop.evaluation.drift import Drift, Place, Usual, comparable, compare, identify
from backdrop.evaluation.records import PAGE, STATISTICS
from backdrop.evaluation.statistics import Statistics, dump_statistics
from backdrop.evaluation.survey import Measured, measure_photographs
from backdrop.inference.ensemble import EnsembleModel
from backdrop.report.drift import SHOWN, Unusual, render_drift

STEP = "drift"
RECORD = "drift.json"
LOWEST, HIGHEST = 0.001, 0.5  # alpha
ALPHA = 0.01  # so that a weekly run is a false alarm every two years


class DriftRecord(Drift):
    """`drift.json`: what the comparison says, and of which photographs.

    `model` is the address of the version. Of the photographs `compared` were compared, and `failed` can't be used;
    `known` are of objects that the model was trained or judged on, and `other_views` of views that it wasn't.
    `passed_over` are the other files, by name.
    """

    model: str
    compared: int
    failed: int
    known: int
    other_views: int
    passed_over: tuple[PassedOver, ...] = ()


@dataclass
class _Survey:
    """The current photographs as measured, and the most unusual ones: by how much, in what, and what was found."""

    rows: list[Statistics] = field(default_factory=list)
    unusual: list[tuple[float, str, Measured]] = field(default_factory=list)
    failed: int = 0


@working("looking for drift")
@alone(STEP)
def drift(reference: str, current: str, out: str, alpha: float = ALPHA) -> DriftRecord:
    """Compares new photographs with those of the holdout on which a registered model was judged.

    Objects that the model was trained or judged on are left out, those with pseudo-labels too.

    Args:
        reference: a registered model's address, such as `models:/NAME@champion`.
        current: a file, a folder (with its subfolders), a pattern, or an `s3://` object or prefix.
        out: the folder to write: `index.html`, `drift.json`, and `statistics.csv` (a row per photograph). It isn't
            searched for photographs.
        alpha: the chance of a false alarm if nothing has changed, 0.001 to 0.5.

    Raises:
        ConfigError: if alpha is out of range.
        DataError: if there are no photographs, or none of a new object that can be read.
        MemberError: if the model was evaluated without a holdout.
        TrackingError: if MLflow can't be reached, or has lost the model or its evaluation.
        StorageError: if something can't be read, something else is at `out`, or it can't be written.
    """
    if not LOWEST <= alpha <= HIGHEST:
        raise ConfigError(f"--alpha must be {LOWEST} to {HIGHEST}, not {alpha:g}", f"Use another, such as {ALPHA}")
    from backdrop.steps.champion import load, plan_of  # slow: imports mlflow
    from backdrop.tracking.evaluations import fetch_statistics
    from backdrop.tracking.registry import require_version

    version = require_version(reference)
    held = [one for one in fetch_statistics(version.evaluation_run) if one.fold == HOLDOUT]
    if not held:
        raise MemberError(f"{version.address} was judged without a holdout", "Evaluate with a plan that has one")
    sources, passed_over = find_photographs([current], [Path(out).absolute()])
    places = identify([source.name for source in sources], {one.view for one in held})
    plan = plan_of(version)
    network = load(version)
    labeled = {name for member in network.members for name in member.record.pseudo_objects}
    new = _without(places, {*plan.assignment(), *(row.image for row in plan.rows), *labeled})
    if not new:
        what = f"{current} has only photographs of objects that {version.address} knows"
        raise DataError(what, "Name a folder of new ones")
    base = comparable(held, {place.view for place in new.values()})
    chosen = [source for source in sources if source.name in new]
    survey = _survey(network, chosen, new, Usual(base))
    if not survey.rows:
        raise DataError(f"{current} has no photograph that can be used", "See the lines above")
    found = compare(base, survey.rows, alpha)
    record = DriftRecord(
        **found.model_dump(),
        model=version.address,
        compared=len(survey.rows),
        failed=survey.failed,
        known=len(places) - len(new),
        other_views=len(sources) - len(places),
        passed_over=passed_over,
    )
    page = render_drift(version.address, found, notes(record), _unusual(survey, chosen))
    with output_folder(out, STEP, RECORD) as folder:
        (folder / PAGE).write_text(page, encoding="utf-8")
        (folder / STATISTICS).write_bytes(dump_statistics(survey.rows))
        (folder / RECORD).write_text(f"{record.model_dump_json(indent=1)}\n", encoding="utf-8")
    return record


def notes(record: DriftRecord) -> list[str]:
    """What else is to be said about the photographs, each in a line."""
    lines = {
        "of objects that the model was trained or judged on, left out": record.known,
        "of views that the holdout hasn't, left out": record.other_views,
        "can't be used": record.failed,
    }
    return [f"{count(number, 'photograph')} {words}" for words, number in lines.items() if number]


def _without(places: dict[str, Place], known: Collection[str]) -> dict[str, Place]:
    return {name: place for name, place in places.items() if PurePosixPath(place.object).name not in known}


def _survey(model: EnsembleModel, sources: Sequence[Source], places: dict[str, Place], usual: Usual) -> _Survey:
    survey = _Survey()
    with progress("measuring photographs", len(sources)) as advance:
        for cutout in measure_photographs(model, sources):
            advance()
            if not isinstance(cutout, Measured):
                log(f"{cutout.image} {cutout.failure}")
                survey.failed += 1
                continue
            place = places[cutout.image]
            survey.rows.append(Statistics(cutout.image, place.object, place.view, "", cutout.values))
            statistic, away = usual.furthest(place.view, cutout.values)
            found = sorted([*survey.unusual, (away, statistic, cutout)], key=lambda one: (-abs(one[0]), one[2].image))
            survey.unusual = found[:SHOWN]
    return survey


def _unusual(survey: _Survey, sources: Sequence[Source]) -> list[Unusual]:
    """The most unusual photographs, which are decoded again."""
    paths = {source.name: source.path for source in sources}
    shown = []
    for away, statistic, one in survey.unusual:
        try:
            image = read_image(paths[one.image])
        except DataError as error:  # it has vanished since it was measured; its figures are there
            log(f"{PAGE} leaves a photograph out: {error.what}")
            continue
        shown.append(Unusual(one.image, statistic, away, image, decode_rle(one.rle, one.height, one.width)))
    return shown
