"""An ensemble's YAML: its recipes and folds, weights, post-processing, and the gate for promotion."""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, FiniteFloat, Tag, model_validator

from backdrop.common.errors import ConfigError
from backdrop.config.catalog import find_recipe, find_text
from backdrop.config.folds import PLAN, By, Rule
from backdrop.config.network import Share
from backdrop.config.patterns import NAME
from backdrop.config.postprocessing import Operations
from backdrop.config.recipe import Recipe
from backdrop.config.records import Record, as_assignments, parse

AUTO = "auto"  # stands for a proposal where an ensemble's name is expected
# What images.csv always has; metadata.csv has the others.
MEASURED = ("view", "area", "brightness", "contrast", "edge_contrast")
NO_SLICES = ("", "image", "object", "fold", "dice")  # columns of images.csv that group nothing


Weight = Annotated[float, Field(gt=0, le=1e9)]


class Scheme(Record):
    """How objects are split into folds; the keys are the options of `backdrop split`."""

    count: Annotated[int, Field(ge=2, le=1000)] = 5
    by: By = "area"
    view: str | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _view_is_ranked(self) -> "Scheme":
        if self.view is not None and self.by != "area_rank":
            raise ValueError(f"a split by {self.by} doesn't use a view; remove view, or write by: area_rank")
        return self


class Folds(Scheme):
    """The ensemble's own scheme; all other schemes share its holdout."""

    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.15


class Part(Record):
    """A recipe in an ensemble, with its relative weight and the keys that differ from its YAML.

    `recipe` is a name, a path relative to the ensemble's file, or the recipe itself. `folds` defaults to those of the
    group or the ensemble.
    """

    recipe: str | Recipe
    weight: Weight = 1.0
    folds: Scheme | None = None
    set: dict[str, Any] = Field(default_factory=dict)

    def resolve(self) -> Recipe:
        """The recipe as this ensemble trains it.

        Raises:
            ConfigError: if there is no such recipe, or it isn't valid.
        """
        overrides = as_assignments(self.set)
        if isinstance(self.recipe, Recipe) and not overrides:
            return self.recipe
        return find_recipe(self.recipe, overrides, option="set")


class Group(Record):
    """Parts and groups that are averaged first; their mean has the group's weight."""

    group: str
    weight: Weight = 1.0
    folds: Scheme | None = None
    members: Annotated[tuple["Item", ...], Field(min_length=1)]


def _item_type(value: Any) -> str:
    return "group" if isinstance(value, Group) or (isinstance(value, dict) and "group" in value) else "part"


Item = Annotated[Annotated[Part, Tag("part")] | Annotated[Group, Tag("group")], Discriminator(_item_type)]


class Gate(Record):
    """The thresholds for promotion, on the holdout.

    A first champion needs `minimum_dice`. A champion is only replaced on `minimum_objects` or more. With mode `better`
    a challenger must be better; with `cheaper`, one that costs less must lose less than `margin`, and one that costs
    more must gain more than `margin`. It is rejected if in a group of one of the `slices` it is worse by more than
    `slice_drop`, and not by chance.
    """

    minimum_dice: Share = 0.95
    minimum_objects: Annotated[int, Field(ge=2)] = 12
    mode: Literal["better", "cheaper"] = "better"
    margin: Share = 0.001
    slices: tuple[str, ...] = ("view",)
    slice_drop: Share = 0.002

    @model_validator(mode="after")
    def _slices_group_images(self) -> "Gate":
        for name in self.slices:
            if name in NO_SLICES:
                known = ", ".join(MEASURED)
                raise ValueError(f"slices can't be by {name}; write {known} or a column")
            if self.slices.count(name) > 1:
                raise ValueError(f"slices has {name} twice; remove one")
        return self

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """The slices that are columns of the dataset's `metadata.csv`."""
        return tuple(name for name in self.slices if name not in MEASURED)


class ExitRule(Record):
    """Which recipes' members see a photograph first, and above which unconfidence of theirs all others do."""

    first: Annotated[tuple[str, ...], Field(min_length=1)]
    unconfidence_above: Annotated[float, Field(ge=0)]


class EarlyExit(Record):
    """Cheap members first, and the others only for photographs that these leave in doubt.

    `max_loss` is the mean Dice that this may cost. `evaluate` learns the rule out of fold, and `register` writes it
    into the model; without a rule, all members see every photograph.
    """

    max_loss: Share
    rule: ExitRule | None = None


class PredictedDice(Record):
    """What `evaluate` learned about the Dice of photographs that nobody labeled; `register` writes it.

    ln(1.0001 - Dice) is `intercept` + `slope` * ln(1.0001 - expected), where `expected` is the Dice that follows from
    the photograph's probability. For nine in ten objects never seen, all photographs are within `spread` of that.
    """

    intercept: FiniteFloat
    slope: Annotated[FiniteFloat, Field(ge=0)]
    spread: Annotated[FiniteFloat, Field(ge=0)]


class Ensemble(Record):
    """The recipes of an ensemble with their folds and weights, its post-processing, and its gate.

    `license` is the model's, as its card is to show it.
    """

    name: str = Field(pattern=NAME)
    description: str = ""
    license: str = ""
    folds: Folds = Folds()
    members: Annotated[tuple[Item, ...], Field(min_length=1)]
    postprocessing: Operations = ()
    early_exit: EarlyExit | None = None
    predicted_dice: PredictedDice | None = None
    gate: Gate = Gate()

    def resolve(self) -> "Ensemble":
        """The same ensemble without groups or references to files, with weights that add up to 1.

        Raises:
            ConfigError: if a recipe doesn't exist or isn't valid, two have the same name, or `early_exit` can't be used
                with these recipes.
        """
        parts = tuple(_flat(self.members, 1.0, None))
        names = [recipe.name for recipe in map(Part.resolve, parts)]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"Ensemble {self.name} has recipe {name} twice", "Set another name for one of them")
        if self.early_exit:
            self._check_exit(self.early_exit.rule, names)
        return self.model_copy(update={"members": parts})

    def _check_exit(self, rule: ExitRule | None, names: Sequence[str]) -> None:
        if len(names) < 2:
            what = f"Ensemble {self.name} has early_exit, but only one recipe, so that none can be first"
            raise ConfigError(what, "Add another recipe, or remove early_exit")
        for name in rule.first if rule else ():
            if name not in names:
                what = f"Ensemble {self.name} has no recipe {name}, which early_exit.rule.first names"
                raise ConfigError(what, f"Name some of {', '.join(names)}")

    def learned(self, rule: ExitRule | None, predicted_dice: PredictedDice | None) -> "Ensemble":
        """The same ensemble with what `evaluate` learned: its early exit's rule, and how to predict Dice."""
        early_exit = self.early_exit and self.early_exit.model_copy(update={"rule": rule})
        return self.model_copy(update={"early_exit": early_exit, "predicted_dice": predicted_dice})

    def tuned(self, recipes: Sequence[Recipe]) -> "Ensemble":
        """The same ensemble, resolved, with the schedules and optimizers of recipes that a search tuned.

        Args:
            recipes: the recipes that were trained; a recipe may occur more than once.

        Raises:
            ConfigError: if a recipe isn't in the ensemble, or differs in other keys.
        """
        tuned = {recipe.name: recipe for recipe in recipes}
        own = {part.resolve().name: part.resolve() for part in self.parts()}
        for recipe in recipes:
            searched = {name: getattr(recipe, name) for name in ("schedule", "optimizer")}
            known = own.get(recipe.name)
            if recipe != tuned[recipe.name] or known is None or known.model_copy(update=searched) != recipe:
                what = (
                    f"Recipe {recipe.name} differs from ensemble {self.name}'s in more than its schedule and optimizer"
                )
                raise ConfigError(what, "Train its members again")
        parts = [
            part.model_copy(update={"recipe": tuned.get(part.resolve().name, part.resolve()), "set": {}})
            for part in self.parts()
        ]
        return self.model_copy(update={"members": tuple(parts)})

    def parts(self) -> list[Part]:
        """The recipes with their shares, without groups."""
        return list(_flat(self.members, 1.0, None))

    def weights(self) -> dict[str, float]:
        """The share of each recipe, by name; they add up to 1."""
        return {part.resolve().name: part.weight for part in self.parts()}

    def rule(self, part: Part | None = None) -> Rule:
        """The fold scheme of a part; without a part, the ensemble's."""
        scheme = part.folds if part and part.folds else self.folds
        return Rule(scheme.count, self.folds.holdout, scheme.by, scheme.seed, scheme.view)

    def plans(self) -> dict[Rule, str]:
        """The file name of each fold scheme's plan: first the ensemble's, `plan.csv`, then those of its parts."""
        rules = dict.fromkeys([self.rule(), *(self.rule(part) for part in self.parts())])
        return {rule: PLAN if rule == self.rule() else rule.file for rule in rules}


def _flat(items: tuple[Part | Group, ...], share: float, folds: Scheme | None) -> Iterator[Part]:
    total = math.fsum(item.weight for item in items)
    if math.isclose(total, 1.0):
        total = 1.0  # already shares: those of a resolved ensemble must not change
    for item in items:
        own, scheme = share * item.weight / total, item.folds or folds
        if own == 0:
            raise ConfigError(f"weight {item.weight:g} is nothing beside the others", "Use weights such as 1 and 2")
        if isinstance(item, Group):
            yield from _flat(item.members, own, scheme)
        else:
            yield Part(recipe=item.resolve(), weight=own, folds=scheme)


def find_ensemble(name: str) -> Ensemble:
    """Reads a shipped ensemble by name, or a YAML file by path, and resolves it.

    Raises:
        ConfigError: if it doesn't exist, or if it or one of its recipes isn't valid.
    """
    if name == AUTO:
        remedy = "Write a proposal with `backdrop estimate DATA --out auto.yaml`, and name that file"
        raise ConfigError("auto is not an ensemble", remedy)
    source = find_text("ensembles", name)
    return parse(Ensemble, source.values(), source.name).resolve()
