"""`evaluate`: members and their ensemble, out of fold and on the holdout."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from backdrop.common.devices import device
from backdrop.common.errors import BackdropError, ConfigError, MemberError
from backdrop.common.lock import alone
from backdrop.common.output_file import require_file, write_file
from backdrop.common.outputs import output_folder
from backdrop.common.progress import log, progress, working
from backdrop.common.storage import absolute, sha256
from backdrop.config import Ensemble, find_ensemble, shipped
from backdrop.data.dataset import Dataset, Digests, open_dataset, opened_pair, read_pair
from backdrop.data.folds import HOLDOUT, FoldPlan, Row, plans_digest, read_plans, verify
from backdrop.data.metadata import find_metadata, read_metadata
from backdrop.evaluation.ablation import Case, effects
from backdrop.evaluation.baselines import Rival, best_member, compare, parse_baselines, read_baseline
from backdrop.evaluation.budget import (
    CHOICE,
    Budget,
    choose,
    is_choice,
    require_room,
)
from backdrop.evaluation.contributions import compare_sets, contributions, set_dice
from backdrop.evaluation.early_exit import First, Rules, first_costs, fit
from backdrop.evaluation.examples import (
    choose_different,
    choose_typical,
    choose_worst,
    show,
    show_differences,
)
from backdrop.evaluation.metrics import summarize
from backdrop.evaluation.outline import dump_measures
from backdrop.evaluation.pictures import encode_jpeg, stack
from backdrop.evaluation.predicted_dice import Known, learn_and_measure
from backdrop.evaluation.quality import Details, describe
from backdrop.evaluation.records import (
    CHAMPION,
    IMAGES,
    MEASURES,
    METRICS,
    PAGE,
    SPEED,
    STATISTICS,
    WORST,
    WORST_SHOWN,
    Effect,
    Evaluation,
    Exit,
    Opponent,
    Score,
    Speed,
    dump_evaluation,
    dump_scores,
)
from backdrop.evaluation.scoring import Judges, Scored, judges, plan_of, score
from backdrop.evaluation.statistics import Statistics, dump_statistics
from backdrop.inference.batch import chunks, keep_networks, lazily
from backdrop.inference.ensemble import EnsembleModel, Photograph, gather
from backdrop.inference.member import CONFIG, Member
from backdrop.inference.predict import BATCH
from backdrop.inference.speed import measure_seconds
from backdrop.report import Gallery, MemberSummary, Report, render
from backdrop.report.lineage import Lineage, Source
from backdrop.steps.members import open_member
from backdrop.tracking.provenance import commit
from backdrop.training.compute import device_name

if TYPE_CHECKING:
    from backdrop.tracking.version_files import Version

STEP = "evaluate"
WORST_BYTES = 200_000


@working("evaluating")
@alone(STEP)
def evaluate(
    data: str,
    plan: str | Sequence[str],
    members: Sequence[str],
    out: str,
    ensemble: str | None = None,
    model: str | None = None,
    baselines: Sequence[str] = (),
    budget: Budget | None = None,
) -> Evaluation:
    """Scores the members and their ensemble on every photograph that they didn't train on, at its original size.

    Args:
        data: the dataset.
        plan: the members' fold plan; several if members have different plans, the ensemble's own first.
        members: their addresses: folders, `s3://` prefixes, `runs:/ID/member`.
        out: the report's folder: `index.html`, `metrics.json`, `images.csv`, `measures.csv` and `statistics.csv` (a
            row per photograph), `worst.jpg`, and `speed.json`, how long the networks take here.
        ensemble: a shipped ensemble's name or a YAML file's path, for its weights, operations and slices; None for
            equal weights. If it has an early exit, its rule is learned.
        model: a registered model. Its champion's networks are run on the holdout, too, unless MLflow has its scores
            there: `promote` then needs no GPU. They are in `champion.csv`.
        baselines: `NAME=FOLDER` of masks by any program, to compare with.
        budget: the time that networks may take, and the YAML file for the ensemble of the best recipes for that, which
            are chosen out of fold.

    Raises:
        ConfigError: if a baseline isn't written so, no member fits into the budget, or with one, `ensemble` is missing
            or its file lies in `out`.
        MemberError: if a member isn't complete, or wasn't trained by one of the plans on these data; or if an early
            exit can't be learned, or recipes can't be chosen.
        PlanError: if a plan belongs to other data, or has another holdout than the first.
        DataError: if a photograph or a baseline's mask can't be read, or `metadata.csv` lacks what the ensemble's gate
            groups by.
        StorageError: if something else is at `out` or at the budget's file, or it can't be written.
        TrackingError: with `model`, if MLflow can't be reached, or the champion's files were lost or changed.
    """
    config = None if ensemble is None else find_ensemble(ensemble)
    if budget:
        _require_writable(budget, config, out)
    folders = parse_baselines(baselines)
    plans, dataset = read_plans(plan), open_dataset(data)
    metadata = read_metadata(dataset.root, config.gate.metadata_columns if config else ())
    known = _all_metadata(dataset)
    digests = verify(plans[0], dataset)
    exhaustive = config and config.learned(None, None)
    network = keep_networks(gather([open_member(address) for address in members], exhaustive))
    who = judges(plans, digests, network)
    compared = [row.image for row in plans[0].holdout or who]
    others = [read_baseline(name, address, compared, dataset, digests) for name, address in folders.items()]
    asked = config.early_exit if config else None
    costs = _first_costs(network, who) if asked else {}
    speed = _speed(dataset, digests, network, [*who])
    if budget:
        require_room(budget, speed)
        _require_choice(network, who)
    scored = score(dataset, who, digests, costs)
    learned, rules = fit(scored.judged, costs, asked.max_loss) if asked else (None, {})
    network = replace(network, early_exit=rules.get(None))
    who = {row: replace(one, early_exit=rules.get(row.fold)) for row, one in who.items()}
    scores = [_with_metadata(one.by(rules.get(one.score.fold)), metadata) for one in scored.judged]
    details = scored.details_by(rules)
    sets = set_dice(scores, scored.subsets)
    chosen = choose(config, budget, sets, speed, network.members) if config and budget else ""
    reigning, champion, opponent = _champion(data, plans[0], model) if model else (None, (), None)
    part = [one for one in scores if one.image in compared]
    champions = Rival("champion", model or "", {one.image: one.dice for one in champion})
    rivals = [champions, best_member(scored.members, part), *others]
    added = {
        "cost": _cost(network, learned),
        "quality": describe(scores, details),
        "repair": _effects(dataset, digests, who, scores),
        "early_exit": learned,
        "predicted_dice": learn_and_measure(*_known(scored, rules)),
        "champion": opponent,
        "contributions": contributions(scores, scored.subsets, network),
        "sets": compare_sets(sets, network),
        "comparisons": tuple(compare(part, rival) for rival in rivals if rival and rival.dice.keys() >= {*compared}),
    }
    evaluation = summarize(scores, scored.members, network.digest(), plans_digest(plans)).model_copy(update=added)
    name = config.name if config else "ensemble"
    shown = [replace(one, traits=known.get(one.object, {}) | one.traits) for one in scores]
    measures = {image: one.measures for image, one in details.items()}
    lineage = _lineage(dataset, data, plans, digests, network, members, config)
    worst, doubts = show(dataset, digests, who, choose_worst(scores))
    typical, _ = show(dataset, digests, who, choose_typical(scores))
    different = choose_different(part, champions.dice)
    differences = show_differences(dataset, digests, who, _networks(reigning) if different else None, different)
    gallery = Gallery(worst, typical, doubts, differences, lineage.review())
    summaries = [_summary(member, evaluation) for member in network.members]
    page = render(Report(name, plans[0].data, evaluation, shown, measures, summaries, gallery, lineage))
    with output_folder(out, STEP, METRICS) as folder:
        (folder / PAGE).write_text(page, encoding="utf-8")
        (folder / IMAGES).write_bytes(dump_scores(scores))
        (folder / MEASURES).write_bytes(dump_measures(measures))
        (folder / STATISTICS).write_bytes(dump_statistics(_statistics(scores, details)))
        (folder / WORST).write_bytes(encode_jpeg(stack([one.panel for one in worst[:WORST_SHOWN]]), WORST_BYTES))
        if opponent:
            (folder / CHAMPION).write_bytes(dump_scores(champion))
        (folder / SPEED).write_text(f"{speed.model_dump_json(indent=2)}\n", encoding="utf-8")
        (folder / METRICS).write_bytes(dump_evaluation(evaluation))
    if budget:
        write_file(budget.out, chosen.encode(), is_choice, CHOICE)
    return evaluation


def _require_writable(budget: Budget, config: Ensemble | None, out: str) -> None:
    if config is None:
        raise ConfigError("--budget-ms needs --ensemble", "Name the ensemble to choose from")
    if Path(absolute(budget.out)).is_relative_to(absolute(out)):
        raise ConfigError(f"{budget.out} lies in the report, which is replaced as a whole", "Name a file outside --out")
    require_file(budget.out, is_choice, CHOICE)


def _require_choice(model: EnsembleModel, who: Judges) -> None:
    if not _meet(model, who):
        what = "--budget-ms can't choose recipes: no photograph is judged out of fold by members of all"
        raise MemberError(what, "Name members of each recipe on the same folds")


def _speed(dataset: Dataset, digests: Digests, model: EnsembleModel, rows: Sequence[Row]) -> Speed:
    """The seconds that the networks take for the first photographs."""

    def prepare(row: Row) -> tuple[Photograph, None]:
        with opened_pair(dataset.photos[row.image], digests) as (image, _):
            return model.prepare(image), None

    photos = [photo for photo, _ in next(chunks(model, lazily(prepare, rows[:BATCH])))]
    with working("measuring the networks' speed"):
        seconds = measure_seconds(model, photos)
    size = f"{photos[0].width}x{photos[0].height}"
    threads = torch.get_num_threads()
    return Speed(device=device_name(device()), threads=threads, photographs=len(photos), size=size, seconds=seconds)


def _known(scored: Scored, rules: Rules) -> tuple[list[Known], list[Known]]:
    """The photographs out of fold, and those of the holdout."""
    folded, held = ([one for one in scored.judged if (one.score.fold is None) is part] for part in (False, True))
    return [one.known(rules.get(one.score.fold)) for one in folded], [one.known(rules.get(None)) for one in held]


def _statistics(scores: Sequence[Score], details: Mapping[str, Details]) -> Iterator[Statistics]:
    for one in scores:
        fold = HOLDOUT if one.fold is None else str(one.fold)
        yield Statistics(one.image, one.object, one.view, fold, dict(details[one.image].statistics))


def _champion(data: str, plan: FoldPlan, model: str) -> tuple["Version | None", Sequence[Score], Opponent | None]:
    """The champion, its scores on the holdout, and its record if its networks had to be run for them.

    There are no scores if there is no champion, or if its members know objects of the holdout.
    """
    from backdrop.steps.champion import known_objects, predict_scores, recorded_scores  # slow: imports mlflow
    from backdrop.tracking import registry

    champion = registry.find_alias(model, "champion")
    if champion is None or known_objects(plan, champion):
        return champion, (), None
    recorded = recorded_scores(plan, champion)
    if recorded is not None:
        return champion, recorded, None
    with working(f"judging the champion, version {champion.version}"):
        scores = predict_scores(data, plan, champion)
    return champion, scores, Opponent(digest=champion.digest, scores=sha256(dump_scores(scores)))


def _first_costs(model: EnsembleModel, who: Judges) -> dict[First, float]:
    """What may be first in an early exit, which needs photographs with out-of-fold members of all recipes."""
    costs = first_costs(model)
    if not costs or not _meet(model, who):
        what = "early_exit can't be learned: it needs two recipes or more, and members of all on the same folds"
        raise MemberError(what, "Name these members, too, or remove early_exit")
    return costs


def _meet(model: EnsembleModel, who: Judges) -> bool:
    """Whether members of all recipes judge a photograph out of fold."""
    recipes = {member.record.recipe for member in model.members}
    known = ({member.record.recipe for member in one.members} for row, one in who.items() if row.fold is not None)
    return recipes in known


def _cost(model: EnsembleModel, learned: Exit | None) -> int:
    """The multiply-accumulates for a photograph; with an early exit, their mean where it can best be measured."""
    saving = (learned.holdout or learned.oof) if learned and learned.rule else None
    return round(model.cost() * (1 - saving.saved.mean)) if saving else model.cost()


def _with_metadata(score: Score, metadata: Mapping[str, dict[str, str]]) -> Score:
    return replace(score, traits={**score.traits, **metadata.get(score.object, {})})


def _all_metadata(dataset: Dataset) -> dict[str, dict[str, str]]:
    """All that is known of objects, for the page's slices; nothing, and a line that says so, if it can't be read."""
    known, fault = find_metadata(dataset.root)
    if fault:
        log(f"The report has no slices by metadata.csv: {fault}")
    return known


def _effects(dataset: Dataset, digests: Digests, who: Judges, scores: Sequence[Score]) -> tuple[Effect, ...]:
    """The gains of the ensemble's operations out of fold; it predicts again, because all maps don't fit in memory."""
    operations = next(iter(who.values())).operations
    folded = {row: model for row, model in who.items() if row.fold is not None}
    if not operations or not folded:
        return ()

    def cases() -> Iterator[Case]:
        with progress("measuring post-processing", len(folded)) as advance:
            for row, model in folded.items():
                image, truth = read_pair(dataset.photos[row.image], digests)
                yield Case(row, truth, model.probability(image), model.mean_of(model.prepare(image)))
                advance()

    return effects(cases(), operations, scores)


def _networks(champion: "Version | None") -> EnsembleModel | None:
    """The champion's networks, to draw its masks; None if its files can't be had, which is no reason to fail."""
    from backdrop.steps.champion import load  # slow: imports mlflow

    try:
        return load(champion) if champion else None
    except BackdropError as error:
        log(f"The report has no masks of the champion: {error}")
        return None


def _lineage(
    dataset: Dataset,
    data: str,
    plans: Sequence[FoldPlan],
    digests: Digests,
    model: EnsembleModel,
    addresses: Sequence[str],
    config: Ensemble | None,
) -> Lineage:
    """What the ensemble was made from."""
    known = {open_member(address).name: address for address in addresses}
    sources = [Source(known[one.name], one, plans.index(plan_of(one, plans, digests))) for one in model.members]
    name = None if config is None else config.name if config.name in shipped("ensembles") else CONFIG
    objects = len({photo.object for photo in dataset.photos.values()})
    return Lineage(data, objects, plans, list(config.plans()) if config else [], sources, name, commit())


def _summary(member: Member, evaluation: Evaluation) -> MemberSummary:
    record, alone = member.record, evaluation.holdout.members.get(member.name)
    return MemberSummary(
        name=member.name,
        recipe=record.recipe,
        fold=record.fold,
        epochs=record.epochs,
        selected_epoch=record.selected_epoch,
        oof_dice=None if record.fold is None else record.dice,
        holdout_dice=alone.dice if alone else None,
        seconds=record.seconds,
        history=member.history(),
    )
