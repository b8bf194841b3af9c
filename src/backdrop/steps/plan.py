"""`plan`: splits the data for an ensemble, and finds out which parts of a run are missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from backdrop.common.progress import working
from backdrop.config import Budget, Ensemble, Recipe, find_ensemble, find_recipe, read_over
from backdrop.config.folds import Rule
from backdrop.config.planned import planned
from backdrop.config.records import Record, dump_yaml
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import FoldPlan, read_plan, verify
from backdrop.inference.member import Member, content_key
from backdrop.steps.members import open_member
from backdrop.steps.promote import is_decided
from backdrop.steps.register import Registration, find_registration
from backdrop.steps.split import split
from backdrop.steps.tune import SCHEDULE, find_search
from backdrop.tracking import history
from backdrop.tracking.members import find_member

EVALUATION, VERDICT = "evaluation", "verdict"


@dataclass(frozen=True)
class Run:
    """What a run is to make.

    Attributes:
        data: the dataset.
        ensemble: a shipped ensemble's name, or a YAML file's path.
        name: the registered model.
        objects: only this number of objects, the first by name; None for all.
        folds: only the members of these folds; None for all.
        budget: of each recipe's schedule search; None if there is none.
        searches: where a search writes; `{recipe}` in it stands for the recipe, `{key}` for the search's key.
        promotion: whether the gate is to decide.
    """

    data: str
    ensemble: str
    name: str
    objects: int | None = None
    folds: Sequence[int] | None = None
    budget: Budget | None = None
    searches: str = ""
    promotion: bool = True


class FoundMember(Record):
    """A finished member: its address, its epochs, and its Dice out of fold."""

    address: str
    epochs: int
    dice: float


class PlanRecord(Record):
    """What exists already, and what is missing.

    Attributes:
        data: the digest of the data.
        members: the finished members by their names.
        registration: the version with its evaluation; None if they are missing.
        champion: the version in use; None if there is none.
        missing: what the run has to make: `tune-<recipe>`, `train-<recipe>-<fold>`, `evaluation` (with the version),
            and `verdict` (against the present champion); empty if nothing is to be done.
    """

    data: str
    members: dict[str, FoundMember]
    registration: Registration | None
    champion: int | None
    missing: tuple[str, ...]


@working("planning")
def plan(run: Run, out: str) -> PlanRecord:
    """Makes the fold plans of an ensemble, and finds out which parts of a run are missing.

    The plans extend those of the model's champion: its holdout must stay the holdout, or the two can't be compared.

    Args:
        run: what is to be made.
        out: the folder of the plans, one for each fold scheme: `000.csv`, the ensemble's own, then `001.csv` and so on.

    Raises:
        ConfigError: if the ensemble isn't valid, or has no such fold.
        PlanError: if there are fewer objects than places, or one lacks the view of a scheme.
        DataError: if a photograph has no mask or can't be read.
        TrackingError: if MLflow can't be reached.
    """
    ensemble = find_ensemble(run.ensemble)
    paths = _split(run, ensemble, out)
    plans = {rule: read_plan(path) for rule, path in paths.items()}
    recipes = _recipes(run, ensemble, paths)
    addresses = _addresses(run, ensemble, plans, recipes)
    missing = [f"tune-{name}" for name, recipe in recipes.items() if recipe is None]
    missing += [member.task for member in planned(ensemble, run.folds) if member.name not in addresses]
    members = {name: open_member(address) for name, address in addresses.items()}
    registration = None if missing else _registration(run, ensemble, paths, list(members.values()))
    state = history.read(run.name).state
    if registration is None:
        missing.append(EVALUATION)
    if run.promotion and not (registration and is_decided(registration.version, registration.run_id, state)):
        missing.append(VERDICT)
    return PlanRecord(
        data=plans[ensemble.rule()].data,
        members={
            name: FoundMember(address=addresses[name], epochs=member.record.epochs, dice=member.record.dice)
            for name, member in members.items()
        },
        registration=registration,
        champion=state.champion,
        missing=tuple(missing),
    )


def _split(run: Run, ensemble: Ensemble, out: str) -> dict[Rule, str]:
    """Makes the plan of each fold scheme; the further ones have the objects and the holdout of the first."""
    Path(out).mkdir(parents=True, exist_ok=True)
    champion = f"models:/{history.checked_name(run.name)}@champion"
    paths: dict[Rule, str] = {}
    for number, rule in enumerate(ensemble.plans()):
        first = next(iter(paths.values()), None)
        path = str(Path(out, f"{number:03}.csv"))
        split(run.data, path, rule, None if first else run.objects, champion, first)
        paths[rule] = path
    return paths


def _recipes(run: Run, ensemble: Ensemble, paths: Mapping[Rule, str]) -> dict[str, Recipe | None]:
    """The recipes by name, with the schedules that were found for them; None where the search is missing."""
    if run.budget is None:
        return {part.resolve().name: part.resolve() for part in ensemble.parts()}
    found: dict[str, Recipe | None] = {}
    for part in ensemble.parts():
        name = part.resolve().name
        with TemporaryDirectory() as folder:
            path = Path(folder, "recipe.yaml")
            path.write_text(dump_yaml(part.resolve()), encoding="utf-8")
            out = run.searches.replace("{recipe}", name)
            search = find_search(paths[ensemble.rule(part)], str(path), out, run.budget)
            found[name] = find_recipe(str(path), (), read_over(f"{search.out}/{SCHEDULE}")) if search else None
    return found


def _addresses(
    run: Run, ensemble: Ensemble, plans: Mapping[Rule, FoldPlan], recipes: Mapping[str, Recipe | None]
) -> dict[str, str]:
    """The addresses of the finished members, by their names."""
    digests = verify(plans[ensemble.rule()], open_dataset(run.data))
    found = {}
    for member in planned(ensemble, run.folds):
        recipe = recipes[member.recipe.name]
        address = find_member(content_key(recipe, plans[member.rule], digests, member.fold)) if recipe else None
        if address:
            found[member.name] = address
    return found


def _registration(
    run: Run, ensemble: Ensemble, paths: Mapping[Rule, str], members: Sequence[Member]
) -> Registration | None:
    tuned = ensemble.tuned([member.recipe for member in members]) if run.budget else ensemble
    return find_registration(run.data, list(paths.values()), members, tuned, run.name)
