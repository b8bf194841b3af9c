"""Checks that a dataset meets the needs of an ensemble's recipes, before a GPU is requested."""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from backdrop.common.errors import PlanError
from backdrop.common.words import count as plural
from backdrop.config import Ensemble, Recipe
from backdrop.config.folds import Rule
from backdrop.config.network import parse_size
from backdrop.data.dataset import Fault
from backdrop.data.folds import Assignments, Row, assign, object_areas
from backdrop.data.listing import printable
from backdrop.data.validation import Look
from backdrop.models import build


def find_misfits(ensemble: Ensemble, looks: Sequence[Look]) -> list[Fault]:
    """The errors that training an ensemble on a dataset would meet.

    Args:
        ensemble: what to train.
        looks: the dataset's photographs as inspected by `check`.
    """
    faults: list[Fault] = []
    plans: dict[Rule, Assignments | None] = {}
    for rule in ensemble.plans():
        missing = list(_missing_views(ensemble, rule, looks))
        plans[rule] = None if missing else _plan(ensemble, rule, looks, faults)
        faults += missing
    for part in ensemble.parts():
        recipe = part.resolve()
        faults += _too_large(recipe, looks)
        assignments = plans[ensemble.rule(part)]
        if assignments:
            faults += _too_small(recipe, assignments, looks)
    return faults


def _missing_views(ensemble: Ensemble, rule: Rule, looks: Sequence[Look]) -> Iterator[Fault]:
    """Objects without the view that the fold scheme uses."""
    if rule.view is None:
        return
    views: dict[str, set[str]] = {}
    for look in looks:
        views.setdefault(look.photo.object, set()).add(look.photo.view)
    first = {look.photo.object: look.photo for look in reversed(looks)}
    for name in sorted(views):
        if rule.view not in views[name]:
            what = f"belongs to object {name}, which has no view {rule.view} (folds.view of ensemble {ensemble.name})"
            remedy = "Add that view, or set folds.view to one that all objects have"
            yield _error(printable(first[name].image), what, remedy)


def _plan(ensemble: Ensemble, rule: Rule, looks: Sequence[Look], faults: list[Fault]) -> Assignments | None:
    """Objects in folds, as `split` assigns them; if it can't, None, and its error is added to the faults."""
    rows = (Row(look.photo.stem, look.photo.object, look.photo.view, look.area, None) for look in looks)
    try:
        return assign(object_areas(rows, rule.view), rule)
    except PlanError as error:
        faults.append(_error(f"ensemble {ensemble.name}", f"can't be split (folds): {error.what}", error.remedy))
        return None


def _too_large(recipe: Recipe, looks: Sequence[Look]) -> Iterator[Fault]:
    """Photographs that are larger than a recipe's input: one fault per size."""
    if recipe.input.fit == "stretch":
        return
    counts = Counter(look.size for look in looks if look.size)
    first = {look.size: look.photo for look in reversed(looks)}
    for size, count in counts.items():
        width, height = parse_size(size)
        if width > recipe.input.width or height > recipe.input.height:
            others = f" (like {plural(count - 1, 'other')})" if count > 1 else ""
            what = f"is {size}{others}, too large for input.size {recipe.input.size} of recipe {recipe.name}"
            yield _error(printable(first[size].image), what, "Set a larger input.size, or input.fit to stretch")


def _too_small(recipe: Recipe, assignments: Assignments, looks: Sequence[Look]) -> Iterator[Fault]:
    """Recipes that would give batch norm a single value per channel: one photograph, shrunk to one pixel."""
    photos = Counter(assignments[look.photo.object] for look in looks)
    training = sum(count for fold, count in photos.items() if fold is not None)
    fewest = min(training - count for fold, count in photos.items() if fold is not None)
    if min(recipe.batch_size, fewest) != 1 or not _starves_batch_norm(recipe):
        return
    why = "batch_size is 1" if recipe.batch_size == 1 else "a fold trains on a single photograph"
    scale = min(phase.scale for phase in recipe.schedule)
    size = recipe.input.size + (f" at scale {scale:g}" if scale < 1 else "")
    what = f"has input.size {size}, which leaves batch norm one value per channel, because {why}"
    yield _error(f"recipe {recipe.name}", what, "Set a larger input.size or batch_size, or add photographs")


def _starves_batch_norm(recipe: Recipe) -> bool:
    """Whether a batch norm gets a single value per channel from a batch of one; runs on the meta device."""
    single_value = []

    def look(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        single_value.append(inputs[0].shape[-2:].numel() == 1)

    with torch.device("meta"):
        network = build(**recipe.network.model_dump()).eval()
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.register_forward_pre_hook(look)
        width, height = recipe.input.scaled(min(phase.scale for phase in recipe.schedule))
        network(torch.zeros(1, 3, height, width))
    return any(single_value)


def _error(file: str, what: str, remedy: str) -> Fault:
    return Fault(level="error", file=file, what=what, remedy=remedy)
