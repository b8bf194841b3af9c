"""`review`: the labels that are most in doubt, for a person to look at."""

import math
from collections.abc import Iterator, Sequence

from backdrop.common.errors import ConfigError
from backdrop.common.lock import alone
from backdrop.common.outputs import output_folder
from backdrop.common.progress import progress, working
from backdrop.common.text import dump_table
from backdrop.config import find_ensemble
from backdrop.config.records import Record
from backdrop.data.dataset import Dataset, Digests, open_dataset, read_pair
from backdrop.data.folds import HOLDOUT, Row, read_plans, verify
from backdrop.data.masks import binarize
from backdrop.evaluation.pictures import doubt_panel
from backdrop.evaluation.review import Region, find_regions, severity
from backdrop.evaluation.scoring import Judges, judges, predictions
from backdrop.inference.batch import keep_networks
from backdrop.inference.ensemble import gather
from backdrop.report.review import Card, kinds_of, render_review
from backdrop.steps.members import open_member

STEP = "review"
TABLE = "review.csv"
HEAD = ["rank", "image", "object", "view", "fold", "kind", "severity", "pixels", "left", "top", "width", "height"]

Found = dict[Row, list[Region]]


class ReviewRecord(Record):
    """How many masks were compared, have doubtful regions, and are shown; `kinds` counts their worst regions."""

    photographs: int
    doubtful: int
    shown: int
    kinds: dict[str, int]


@working("reviewing")
@alone(STEP)
def review(
    data: str,
    plan: str | Sequence[str],
    members: Sequence[str],
    out: str,
    ensemble: str | None = None,
    share: float = 0.1,
) -> ReviewRecord:
    """Ranks masks by how sure the members that didn't train on them are that something is wrong with them.

    Args:
        data: the dataset.
        plan: the members' fold plan; several if members have different plans, the ensemble's own first.
        members: their addresses: folders, `s3://` prefixes, `runs:/ID/member`.
        out: the folder to write: `index.html` and its further pages, and `review.csv` (a row per doubtful region).
        ensemble: a shipped ensemble's name or a YAML file's path, for its weights; None for equal weights.
        share: of the photographs to show, 0..1.

    Raises:
        ConfigError: if the share is out of range.
        DataError: if a photograph can't be read.
        MemberError: if a member isn't complete, or wasn't trained by one of the plans on these data.
        PlanError: if a plan belongs to other data.
        StorageError: if something else is at `out`, or it can't be written.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"--share must be above 0 and at most 1, not {share:g}", "Use another share, such as 0.1")
    config = None if ensemble is None else find_ensemble(ensemble)
    plans, dataset = read_plans(plan), open_dataset(data)
    digests = verify(plans[0], dataset)
    who = judges(plans, digests, keep_networks(gather([open_member(address) for address in members], config)))
    found: Found = {}
    with progress("comparing masks", len(who)) as advance:
        for row, probability, label in predictions(dataset, digests, who, list(who)):
            found[row] = find_regions(probability, label)
            advance()
    ranking = sorted((row for row in found if found[row]), key=lambda row: (-severity(found[row]), row.image))
    shown = ranking[: math.ceil(share * len(found))]
    cards = _cards(dataset, digests, who, {row: found[row] for row in shown})
    pages = render_review(dataset.root.name, plans[0].data, cards, len(found))
    with output_folder(out, STEP, TABLE) as folder:
        for name, page in pages.items():
            (folder / name).write_text(page, encoding="utf-8")
        (folder / TABLE).write_bytes(dump_table(HEAD, _rows(ranking, found)))
    kinds = kinds_of({row.image: regions for row, regions in found.items()})
    return ReviewRecord(photographs=len(found), doubtful=len(ranking), shown=len(shown), kinds=kinds)


def _cards(dataset: Dataset, digests: Digests, who: Judges, found: Found) -> list[Card]:
    """The cards of some photographs, which are predicted again: all pictures together would be too many to keep."""
    cards = {}
    with progress("drawing masks", len(found)) as advance:
        for row, probability, label in predictions(dataset, digests, who, list(found)):
            image, _ = read_pair(dataset.photos[row.image], digests)
            panel = doubt_panel(image, label, binarize(probability), found[row][0].box)
            cards[row] = Card(row.image, row.fold, found[row], panel)
            advance()
    return [cards[row] for row in found]


def _rows(ranking: Sequence[Row], found: Found) -> Iterator[list[object]]:
    for rank, row in enumerate(ranking, 1):
        fold = HOLDOUT if row.fold is None else row.fold
        for one in found[row]:
            place = [rank, row.image, row.object, row.view, fold]
            yield [*place, one.kind, f"{one.severity:.6f}", one.pixels, *one.box]
