"""An ensemble: one YAML says which recipes are trained on which folds, averaged, repaired and promoted."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from backdrop.common.errors import ConfigError
from backdrop.config.catalog import find_recipe, find_text, seen_from
from backdrop.config.folds import PLAN, By, Rule
from backdrop.config.network import Positive, Share
from backdrop.config.patterns import NAME
from backdrop.config.postprocessing import Operations
from backdrop.config.recipe import Recipe
from backdrop.config.records import Record, override, parse, parse_yaml


class Scheme(Record):
    """How objects are split into folds; the words are those of `backdrop split`."""

    count: Annotated[int, Field(ge=2)] = 5
    by: By = "area"
    view: str | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _view_is_ranked(self) -> "Scheme":
        if self.view is not None and self.by != "area_rank":
            raise ValueError(f"a split by {self.by} looks at no single view; remove view, or write by: area_rank")
        return self


class Folds(Scheme):
    """The ensemble's own scheme; its holdout is that of all other schemes too."""

    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.15


class Part(Record):
    """A recipe's place in an ensemble: its weight against the others, and what is set otherwise than in its YAML.

    `recipe` is a name, the path of a file as seen from the ensemble's own, or the recipe itself. Without `folds`, those
    of the group or the ensemble hold.
    """

    recipe: str | Recipe
    weight: Positive = 1.0
    folds: Scheme | None = None
    set: dict[str, Any] = Field(default_factory=dict)

    def resolve(self) -> Recipe:
        """The recipe as this ensemble trains it.

        Raises:
            ConfigError: if there is no such recipe, or it isn't valid.
        """
        overrides = [f"{key}={json.dumps(value)}" for key, value in self.set.items()]
        if isinstance(self.recipe, str):
            return find_recipe(self.recipe, overrides, option="set")
        if not overrides:
            return self.recipe
        values = override(self.recipe.model_dump(mode="json"), overrides, "set")
        return parse(Recipe, values, self.recipe.name, [f"set {assignment}" for assignment in overrides])


class Group(Record):
    """Parts and groups that are averaged first; then their mean weighs against the group's neighbors."""

    group: str
    weight: Positive = 1.0
    folds: Scheme | None = None
    members: Annotated[tuple["Item", ...], Field(min_length=1)]


def _kind(value: Any) -> str:
    return "group" if isinstance(value, Group) or (isinstance(value, dict) and "group" in value) else "part"


Item = Annotated[Annotated[Part, Tag("part")] | Annotated[Group, Tag("group")], Discriminator(_kind)]


class Gate(Record):
    """What a challenger must show on the holdout.

    `minimum_dice` is asked of a first champion. Against a champion, a challenger is rejected if it is worse by more
    than `slice_drop` on any guarded slice (a view) and that slice's interval lies wholly below zero.
    """

    minimum_dice: Share = 0.95
    slice_drop: Share = 0.002


class Ensemble(Record):
    """Which recipes are trained on which folds and averaged, what is done to the mean, and the gate for promotion."""

    name: str = Field(pattern=NAME)
    description: str = ""
    folds: Folds = Folds()
    members: Annotated[tuple[Item, ...], Field(min_length=1)]
    postprocessing: Operations = ()
    gate: Gate = Gate()

    def resolve(self) -> "Ensemble":
        """The same without groups, every recipe written out and its weight a share of 1: it needs no other file.

        Raises:
            ConfigError: if there is no such recipe, it isn't valid, or two have one name.
        """
        parts = tuple(_flat(self.members, 1.0, None))
        names = [recipe.name for recipe in map(Part.resolve, parts)]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"Ensemble {self.name} has recipe {name} twice", "Set another name for one of them")
        return self.model_copy(update={"members": parts})

    def tuned(self, recipes: Sequence[Recipe]) -> "Ensemble":
        """The same, resolved, with the schedules and optimizers that a search found for its recipes.

        Args:
            recipes: those that were trained, each once or more.

        Raises:
            ConfigError: if one of them isn't in the ensemble, or differs in more than that.
        """
        found = {recipe.name: recipe for recipe in recipes}
        own = {part.resolve().name: part.resolve() for part in self.parts()}
        for recipe in recipes:
            searched = {name: getattr(recipe, name) for name in ("schedule", "optimizer")}
            known = own.get(recipe.name)
            if recipe != found[recipe.name] or known is None or known.model_copy(update=searched) != recipe:
                what = f"Recipe {recipe.name} isn't ensemble {self.name}'s with another schedule"
                raise ConfigError(what, "Train its members again")
        parts = [
            part.model_copy(update={"recipe": found.get(part.resolve().name, part.resolve()), "set": {}})
            for part in self.parts()
        ]
        return self.model_copy(update={"members": tuple(parts)})

    def parts(self) -> list[Part]:
        """The recipes with their shares, outside of any group."""
        return list(_flat(self.members, 1.0, None))

    def weights(self) -> dict[str, float]:
        """The share of each recipe, by name; they add up to 1."""
        return {part.resolve().name: part.weight for part in self.parts()}

    def rule(self, part: Part | None = None) -> Rule:
        """How the part's folds are made; without a part, those of the ensemble itself."""
        scheme = part.folds if part and part.folds else self.folds
        return Rule(scheme.count, self.folds.holdout, scheme.by, scheme.seed, scheme.view)

    def plans(self) -> dict[Rule, str]:
        """The name of each fold scheme's plan: first the ensemble's own, `plan.csv`, then those of its parts."""
        rules = dict.fromkeys([self.rule(), *(self.rule(part) for part in self.parts())])
        return {rule: PLAN if rule == self.rule() else rule.file for rule in rules}


def _flat(items: tuple[Part | Group, ...], share: float, folds: Scheme | None) -> Iterator[Part]:
    total = math.fsum(item.weight for item in items)
    if math.isclose(total, 1.0):
        total = 1.0  # they are shares already, and the shares of a resolved ensemble stay what they are
    for item in items:
        own, scheme = share * item.weight / total, item.folds or folds
        if isinstance(item, Group):
            yield from _flat(item.members, own, scheme)
        else:
            yield Part(recipe=item.resolve(), weight=own, folds=scheme)


def find_ensemble(name: str) -> Ensemble:
    """A shipped ensemble by name, or a YAML file's by path, its recipes written out.

    Raises:
        ConfigError: if there is none, or it or one of its recipes isn't valid.
    """
    source = find_text("ensembles", name)
    values = seen_from(source.folder, parse_yaml(source.text, source.name))
    return parse(Ensemble, values, source.name).resolve()
