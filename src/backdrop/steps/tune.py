"""`tune`: searches a recipe's schedule and learning rates on a dataset, in a fixed budget."""

import json
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from backdrop import __version__
from backdrop.common import storage
from backdrop.common.errors import ConfigError, TuningError
from backdrop.common.lock import hold
from backdrop.common.outputs import Claim, inspect, probe, repair
from backdrop.common.places import checked_address
from backdrop.common.progress import log, working
from backdrop.config import Budget, Recipe, Space, digest, find_recipe, find_space
from backdrop.config.folds import PLAN
from backdrop.config.records import Record, as_assignments, dump_yaml, parse, parse_yaml, read_text
from backdrop.config.space import preset
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import FoldPlan, dump_plan, read_plan, verify
from backdrop.report import render_search
from backdrop.tracking import enabled
from backdrop.tuning.results import Search, dump_trials

if TYPE_CHECKING:
    from backdrop.tracking.searches import SearchRuns
    from backdrop.tuning.search import Plan

STEP = "tune"
SCHEDULE = "schedule.yaml"
TRIALS = "trials.csv"
PAGE = "report/index.html"
RECORD = "search.json"
KEY, JOB = "key", "job"
RECIPE, SPACE = "recipe.yaml", "space.yaml"


@dataclass(frozen=True)
class Resources:
    """The resources of a search.

    Attributes:
        parallel: number of trials at a time; None for one per GPU, or one without a GPU.
        cluster: a YAML file that describes the Ray cluster that KubeRay creates for the search; None for none.
    """

    parallel: int | None = None
    cluster: str | None = None


RESOURCES = Resources()


class TuneRecord(Record):
    """The result's address, the search, and whether it had finished before."""

    out: str
    search: Search
    reused: bool


@dataclass(frozen=True)
class _Asked:
    """What is searched: the recipe, the one that trials train, space, fold plan, the search's key and folder."""

    recipe: Recipe
    proxy: Recipe
    space: Space
    folds: FoldPlan
    key: str
    target: str


@working("searching")
def tune(
    data: str,
    plan: str,
    recipe: str,
    out: str,
    budget: Budget,
    space: str | None = None,
    overrides: Sequence[str] = (),
    resources: Resources = RESOURCES,
) -> TuneRecord:
    """Searches a schedule, resumes a killed search, or returns a finished one.

    Ray runs here, or on the cluster whose dashboard RAY_ADDRESS names (`http://…`), or on one that KubeRay creates.

    Args:
        data: the dataset.
        plan: its fold plan.
        recipe: a shipped recipe's name, or a YAML file's path.
        out: folder or `s3://` prefix of the result; `{key}` in it stands for the first 12 digits of the search's key.
        budget: the size and method of the search.
        space: a shipped space's name, or a YAML file's path; None for the recipe's default.
        overrides: assignments `a.b=c` for the trials' recipe, after those of the space.
        resources: the resources of the search.

    Raises:
        ConfigError: if recipe, space, budget or cluster isn't valid.
        PlanError: if the plan belongs to other data, or has no such fold.
        TuningError: if `out` holds another search, or no trial reaches a Dice.
        StorageError: if `out` can't be written, or another process searches there.
    """
    asked = _ask(plan, recipe, out, budget, space, overrides)
    chosen, tried, folds, key, target = asked.recipe, asked.space, asked.folds, asked.key, asked.target
    photos = storage.absolute(data)
    if found := _finished(target, key):
        return TuneRecord(out=target, search=found, reused=True)

    inspect(target, STEP, whole=False)
    probe(target)
    given = {RECIPE: dump_yaml(chosen), SPACE: dump_yaml(tried), PLAN: dump_plan(folds).decode(), KEY: key}
    elsewhere = _elsewhere(target, resources.cluster)
    verify(folds, open_dataset(data))
    own = preset(chosen, own=True)
    presets = {"own": own, **{one.name: preset(one) for one in map(find_recipe, tried.presets)}}
    from backdrop.tuning.search import Plan, run_search  # slow: imports ray

    whole = Plan(photos, f"{target}/{PLAN}", folds.data, key, chosen, asked.proxy, tried, presets, budget, target)
    whole.check()
    with nullcontext() if elsewhere else hold(target, STEP):  # elsewhere the job itself holds it
        claim = Claim(target, STEP, RECORD, (SCHEDULE, TRIALS, PAGE, RECORD, *given))
        claim.write({name: text.encode() for name, text in given.items()})
        if elsewhere:
            elsewhere(_command(photos, target, budget, overrides, resources.parallel))
            return TuneRecord(out=target, search=read_search(target), reused=False)
        with _followed(key, whole) as runs:
            search, winner = run_search(whole, resources.parallel, runs.notify if runs else lambda *_: None)
            files = _files(search, winner.override)
            if runs:
                runs.finish(search, files)
        claim.write(files)  # the record comes last, because it marks a finished search
        claim.seal()
        return TuneRecord(out=target, search=search, reused=False)


def find_search(plan: str, recipe: str, out: str, budget: Budget) -> TuneRecord | None:
    """The finished search that `tune` would return; None if there is none.

    Raises:
        ConfigError: if the recipe or its space isn't valid.
        PlanError: if the plan has no such fold.
        TuningError: if `out` holds another search.
    """
    asked = _ask(plan, recipe, out, budget)
    found = _finished(asked.target, asked.key)
    return TuneRecord(out=asked.target, search=found, reused=True) if found else None


def reuse(plan: str, recipe: str, out: str, budget: Budget) -> TuneRecord:
    """The finished search that `tune` would return: never searches.

    Raises:
        TuningError: if there is none.
    """
    found = find_search(plan, recipe, out, budget)
    if found is None:
        what = f"The search in {out} was finished when this run was planned, and isn't there any more"
        raise TuningError(what, "Start the run again: it searches again")
    return found


def read_search(out: str) -> Search:
    """Reads the result of a finished search.

    Raises:
        StorageError: if it doesn't exist.
    """
    text = storage.read_bytes(f"{out}/{RECORD}").decode()
    return parse(Search, parse_yaml(text, RECORD), f"{out}/{RECORD}")


def _ask(
    plan: str, recipe: str, out: str, budget: Budget, space: str | None = None, overrides: Sequence[str] = ()
) -> _Asked:
    chosen = find_recipe(recipe)
    tried = find_space(space, chosen)
    proxy = find_recipe(recipe, [*as_assignments(tried.set), *overrides, f"epochs={budget.epochs}"])
    folds = read_plan(plan)
    for fold in budget.folds:
        folds.validation(fold)
    parts = [digest(chosen), digest(proxy), tried.model_dump_json(), budget.model_dump_json(), __version__]
    key = storage.sha256(json.dumps([*parts, storage.sha256(dump_plan(folds))]).encode())
    return _Asked(chosen, proxy, tried, folds, key, storage.absolute(checked_address(out.replace("{key}", key[:12]))))


def _finished(target: str, key: str) -> Search | None:
    """The search, if it is there and finished; one that lacks a file is logged, and made again from its trials.

    Raises:
        TuningError: if another one is there.
    """
    if not storage.exists(f"{target}/{KEY}"):
        return None
    if storage.read_bytes(f"{target}/{KEY}") != key.encode():
        what = f"{target} holds a search of other data, settings or budget"
        raise TuningError(what, "Use another --out, or delete it")
    if not storage.exists(f"{target}/{RECORD}"):
        return None
    faults = repair(target, STEP, (SCHEDULE, TRIALS, PAGE, RECORD))
    if not faults:
        return read_search(target)
    log(f"Making the result in {target} again from its trials: {', '.join(faults)}")
    if storage.exists(f"{target}/{JOB}"):
        _name_job(target)  # the one that made it has succeeded, and would not run again
    return None


def _elsewhere(target: str, cluster: str | None) -> Callable[[Sequence[str]], None] | None:
    """What runs a command on another cluster, if one is named."""
    address = os.environ.get("RAY_ADDRESS", "")
    if cluster:
        if not storage.is_remote(target):
            raise ConfigError(f"A cluster of pods can't write to {target}", "Name an s3:// address as --out")
        from backdrop.config.cluster import Cluster
        from backdrop.tuning.cluster import kuberay

        text = read_text(Path(cluster), "cluster")
        made = parse(Cluster, parse_yaml(text, cluster), cluster)
        return lambda command: kuberay.run(made, _job(target), command)
    if storage.is_url(address):
        from backdrop.tuning.cluster import jobs

        return lambda command: jobs.run(address, _job(target), command)
    return None


def _job(target: str) -> str:
    """The job's name; one that succeeded is never run again, so a search whose folder was deleted has another."""
    if not storage.exists(f"{target}/{JOB}"):
        _name_job(target)
    return storage.read_bytes(f"{target}/{JOB}").decode()


def _name_job(target: str) -> None:
    Claim(target, STEP, RECORD).write({JOB: f"backdrop-tune-{secrets.token_hex(4)}".encode()})


def _command(data: str, target: str, budget: Budget, overrides: Sequence[str], parallel: int | None) -> list[str]:
    """The same search as a command, which reads only files below `target`."""
    options = {"plan": f"{target}/{PLAN}", "recipe": f"{target}/{RECIPE}", "space": f"{target}/{SPACE}", "out": target}
    options |= {"folds": ",".join(map(str, budget.folds)), "budget-epochs": str(budget.epochs)}
    options |= {name: str(value) for name, value in budget.model_dump(exclude={"folds", "epochs"}).items()}
    options |= {"parallel": str(parallel)} if parallel else {}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    sets = [word for assignment in overrides for word in ("--set", assignment)]
    return ["python3", "-m", "backdrop", "tune", data, *words, *sets]


def _followed(key: str, plan: "Plan") -> AbstractContextManager["SearchRuns | None"]:
    """MLflow's runs of the search, if runs are tracked."""
    if not enabled():
        return nullcontext()
    from backdrop.tracking.searches import SearchRuns  # slow: imports mlflow

    return SearchRuns(key, plan.recipe, plan.space.name)


def _files(search: Search, override: dict[str, Any]) -> dict[str, bytes]:
    """The result's files by name."""
    head = f"# {search.recipe}: the schedule of trial {search.chosen}, for `backdrop train --set-file`\n"
    if search.comparison:
        head += f"# {search.comparison.sentence}\n"
    kept = {name: override[name] for name in ("schedule", "optimizer")}
    return {
        SCHEDULE: (head + yaml.safe_dump(kept, sort_keys=False)).encode(),
        TRIALS: dump_trials(search.trials),
        PAGE: render_search(search).encode(),
        RECORD: search.model_dump_json(indent=1).encode(),
    }
