"""`evaluate`: members and their ensemble, out of fold and on the holdout."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from backdrop.common.devices import device
from backdrop.common.errors import ConfigError, MemberError
from backdrop.common.lock import alone
from backdrop.common.output_file import require_file, write_file
from backdrop.common.outputs import output_folder
from backdrop.common.progress import log, progress, working
from backdrop.common.storage import absolute
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
from backdrop.evaluation.outline import Measures, dump_measures
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
    Comparison,
    Effect,
    Estimate,
    Evaluation,
    Exit,
    Score,
    Speed,
    dump_evaluation,
    dump_scores,
)
from backdrop.evaluation.scoring import Judges, Scored, judges, plan_of, score
from backdrop.evaluation.statistics import Statistics, dump_statistics
from backdrop.evaluation.subsets import Recipes
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
    from backdrop.steps.champion import Champion

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
    inputs = _open(data, read_plans(plan), members, config)
    compared = [row.image for row in inputs.plans[0].holdout or inputs.who]
    others = [read_baseline(name, at, compared, inputs.dataset, inputs.digests) for name, at in folders.items()]
    speed = _speed(inputs)
    if budget:
        require_room(budget, speed)
        _require_choice(inputs)
    judged = _judge(inputs)
    chosen = choose(config, budget, judged.sets, speed, inputs.model.members) if config and budget else ""
    champion = _champion(inputs, model) if model else None
    scores = {one.image: one.dice for one in champion.scores} if champion else {}
    images = {*compared}
    part = [one for one in judged.scores if one.image in images]
    rivals = [Rival("champion", model or "", scores), best_member(judged.scored.members, part), *others]
    comparisons = [compare(part, rival) for rival in rivals if rival and rival.dice.keys() >= images]
    evaluation = _record(inputs, judged, comparisons, champion)
    lineage = _lineage(inputs)
    gallery = _gallery(inputs, judged, choose_different(part, scores), champion, lineage.review())
    page = _page(inputs, judged, evaluation, gallery, lineage)
    with output_folder(out, STEP, METRICS) as folder:
        (folder / PAGE).write_text(page, encoding="utf-8")
        (folder / IMAGES).write_bytes(dump_scores(judged.scores))
        (folder / MEASURES).write_bytes(dump_measures(judged.measures))
        (folder / STATISTICS).write_bytes(dump_statistics(_statistics(judged)))
        worst = stack([one.panel for one in gallery.worst[:WORST_SHOWN]])
        (folder / WORST).write_bytes(encode_jpeg(worst, WORST_BYTES))
        if champion and champion.record:
            (folder / CHAMPION).write_bytes(dump_scores(champion.scores))
        (folder / SPEED).write_text(f"{speed.model_dump_json(indent=2)}\n", encoding="utf-8")
        (folder / METRICS).write_bytes(dump_evaluation(evaluation))
    if budget:
        write_file(budget.out, chosen.encode(), is_choice, CHOICE)
    return evaluation


@dataclass(frozen=True)
class _Inputs:
    """What is evaluated, found to belong together.

    Attributes:
        data: the dataset's address.
        metadata: of each object, what the ensemble's gate groups by.
        known: of each object, all that is known, for the page.
        addresses: the members', by name.
        who: the members that may judge each photograph.
    """

    data: str
    dataset: Dataset
    digests: Digests
    plans: Sequence[FoldPlan]
    config: Ensemble | None
    metadata: Mapping[str, dict[str, str]]
    known: Mapping[str, dict[str, str]]
    addresses: Mapping[str, str]
    model: EnsembleModel
    who: Judges


def _open(data: str, plans: Sequence[FoldPlan], members: Sequence[str], config: Ensemble | None) -> _Inputs:
    dataset = open_dataset(data)
    metadata = read_metadata(dataset.root, config.gate.metadata_columns if config else ())
    known, fault = find_metadata(dataset.root)
    if fault:
        log(f"The report has no slices by metadata.csv: {fault}")
    digests = verify(plans[0], dataset)
    opened = [(open_member(address), address) for address in members]
    model = keep_networks(gather([member for member, _ in opened], config and config.learned(None, None)))
    addresses = {member.name: address for member, address in opened}
    who = judges(plans, digests, model)
    return _Inputs(data, dataset, digests, plans, config, metadata, known, addresses, model, who)


@dataclass(frozen=True)
class _Judged:
    """How the members judged, each photograph as the early exit that was learned from it leads to it.

    `who` has the members of each photograph, `sets` the Dice of parts of the ensemble.
    """

    who: Judges
    scored: Scored
    learned: Exit | None
    rules: Rules
    scores: Sequence[Score]
    details: Mapping[str, Details]
    sets: Mapping[Recipes, Estimate]

    @property
    def measures(self) -> dict[str, Measures]:
        """Each image's distances between outlines."""
        return {image: one.measures for image, one in self.details.items()}


def _judge(inputs: _Inputs) -> _Judged:
    asked = inputs.config.early_exit if inputs.config else None
    costs = _first_costs(inputs) if asked else {}
    scored = score(inputs.dataset, inputs.who, inputs.digests, costs)
    learned, rules = fit(scored.judged, costs, asked.max_loss) if asked else (None, {})
    who = {row: replace(one, early_exit=rules.get(row.fold)) for row, one in inputs.who.items()}
    scores = [_with_metadata(one.by(rules.get(one.score.fold)), inputs.metadata) for one in scored.judged]
    return _Judged(who, scored, learned, rules, scores, scored.details_by(rules), set_dice(scores, scored.subsets))


def _record(
    inputs: _Inputs, judged: _Judged, comparisons: Sequence[Comparison], champion: "Champion | None"
) -> Evaluation:
    network = replace(inputs.model, early_exit=judged.rules.get(None))
    scores = judged.scores
    added = {
        "cost": _cost(network, judged.learned),
        "quality": describe(scores, judged.details),
        "repair": _effects(inputs, judged),
        "early_exit": judged.learned,
        "predicted_dice": learn_and_measure(*_known(judged)),
        "champion": champion.record if champion else None,
        "contributions": contributions(scores, judged.scored.subsets, network),
        "sets": compare_sets(judged.sets, network),
        "comparisons": tuple(comparisons),
    }
    plans = plans_digest(inputs.plans)
    return summarize(scores, judged.scored.members, network.digest(), plans).model_copy(update=added)


def _gallery(
    inputs: _Inputs,
    judged: _Judged,
    different: Sequence[tuple[Score, float]],
    champion: "Champion | None",
    review: str,
) -> Gallery:
    """The photographs to show; the champion's networks are run only for those on which it differs."""
    dataset, digests, who = inputs.dataset, inputs.digests, judged.who
    worst, doubts = show(dataset, digests, who, choose_worst(judged.scores))
    typical, _ = show(dataset, digests, who, choose_typical(judged.scores))
    reigning = champion.networks() if champion and different else None
    differences = show_differences(dataset, digests, who, reigning, different)
    return Gallery(worst, typical, doubts, differences, review)


def _page(inputs: _Inputs, judged: _Judged, evaluation: Evaluation, gallery: Gallery, lineage: Lineage) -> str:
    shown = [replace(one, traits=inputs.known.get(one.object, {}) | one.traits) for one in judged.scores]
    name = inputs.config.name if inputs.config else "ensemble"
    summaries = [_summary(member, evaluation) for member in inputs.model.members]
    data = inputs.plans[0].data
    return render(Report(name, data, evaluation, shown, judged.measures, summaries, gallery, lineage))


def _require_writable(budget: Budget, config: Ensemble | None, out: str) -> None:
    if config is None:
        raise ConfigError("--budget-ms needs --ensemble", "Name the ensemble to choose from")
    if Path(absolute(budget.out)).is_relative_to(absolute(out)):
        raise ConfigError(f"{budget.out} lies in the report, which is replaced as a whole", "Name a file outside --out")
    if Path(absolute(out)).is_relative_to(absolute(budget.out)):
        raise ConfigError(f"{budget.out} is the folder of the report", "Name a file outside --out")
    require_file(budget.out, is_choice, CHOICE)


def _require_choice(inputs: _Inputs) -> None:
    if not _meet(inputs):
        what = "--budget-ms can't choose recipes: no photograph is judged out of fold by members of all"
        raise MemberError(what, "Name members of each recipe on the same folds")


def _speed(inputs: _Inputs) -> Speed:
    """The seconds that the networks take for the first photographs."""
    model = inputs.model

    def prepare(row: Row) -> tuple[Photograph, None]:
        with opened_pair(inputs.dataset.photos[row.image], inputs.digests) as (image, _):
            return model.prepare(image), None

    photos = [photo for photo, _ in next(chunks(model, lazily(prepare, [*inputs.who][:BATCH])))]
    with working("measuring the networks' speed"):
        seconds = measure_seconds(model, photos)
    size = f"{photos[0].width}x{photos[0].height}"
    threads = torch.get_num_threads()
    return Speed(device=device_name(device()), threads=threads, photographs=len(photos), size=size, seconds=seconds)


def _known(judged: _Judged) -> tuple[list[Known], list[Known]]:
    """The photographs out of fold, and those of the holdout."""
    rules = judged.rules
    folded, held = ([one for one in judged.scored.judged if (one.score.fold is None) is part] for part in (False, True))
    return [one.known(rules.get(one.score.fold)) for one in folded], [one.known(rules.get(None)) for one in held]


def _statistics(judged: _Judged) -> Iterator[Statistics]:
    for one in judged.scores:
        fold = HOLDOUT if one.fold is None else str(one.fold)
        yield Statistics(one.image, one.object, one.view, fold, dict(judged.details[one.image].statistics))


def _champion(inputs: _Inputs, model: str) -> "Champion | None":
    from backdrop.steps.champion import find_champion  # slow: imports mlflow

    return find_champion(inputs.data, inputs.plans[0], model)


def _first_costs(inputs: _Inputs) -> dict[First, float]:
    """What may be first in an early exit, which needs photographs with out-of-fold members of all recipes."""
    costs = first_costs(inputs.model)
    if not costs or not _meet(inputs):
        what = "early_exit can't be learned: it needs two recipes or more, and members of all on the same folds"
        raise MemberError(what, "Name these members, too, or remove early_exit")
    return costs


def _meet(inputs: _Inputs) -> bool:
    """Whether members of all recipes judge a photograph out of fold."""
    recipes = {member.record.recipe for member in inputs.model.members}
    folded = [one.members for row, one in inputs.who.items() if row.fold is not None]
    return any({member.record.recipe for member in members} == recipes for members in folded)


def _cost(model: EnsembleModel, learned: Exit | None) -> int:
    """The multiply-accumulates for a photograph; with an early exit, their mean where it can best be measured."""
    saving = (learned.holdout or learned.oof) if learned and learned.rule else None
    return round(model.cost() * (1 - saving.saved.mean)) if saving else model.cost()


def _with_metadata(score: Score, metadata: Mapping[str, dict[str, str]]) -> Score:
    return replace(score, traits={**score.traits, **metadata.get(score.object, {})})


def _effects(inputs: _Inputs, judged: _Judged) -> tuple[Effect, ...]:
    """The gains of the ensemble's operations out of fold; it predicts again, because all maps don't fit in memory."""
    operations = inputs.model.operations
    folded = {row: model for row, model in judged.who.items() if row.fold is not None}
    if not operations or not folded:
        return ()

    def cases() -> Iterator[Case]:
        with progress("measuring post-processing", len(folded)) as advance:
            for row, model in folded.items():
                image, truth = read_pair(inputs.dataset.photos[row.image], inputs.digests)
                yield Case(row, truth, model.probability(image), model.mean_of(model.prepare(image)))
                advance()

    return effects(cases(), operations, judged.scores)


def _lineage(inputs: _Inputs) -> Lineage:
    """What the ensemble was made from."""
    plans, config = inputs.plans, inputs.config
    sources = [
        Source(inputs.addresses[one.name], one, plans.index(plan_of(one, plans, inputs.digests)))
        for one in inputs.model.members
    ]
    name = None if config is None else config.name if config.name in shipped("ensembles") else CONFIG
    objects = len({photo.object for photo in inputs.dataset.photos.values()})
    return Lineage(inputs.data, objects, plans, list(config.plans()) if config else [], sources, name, commit())


def _summary(member: Member, evaluation: Evaluation) -> MemberSummary:
    record, alone = member.record, evaluation.holdout.members.get(member.name)
    return MemberSummary(
        name=member.name,
        fold=record.fold,
        epochs=record.epochs,
        selected_epoch=record.selected_epoch,
        oof_dice=None if record.fold is None else record.dice,
        holdout_dice=alone.dice if alone else None,
        seconds=record.seconds,
        history=member.history(),
    )
