"""How objects are split into folds."""

from dataclasses import dataclass
from typing import Literal, cast, get_args

from backdrop.common.errors import ConfigError, PlanError
from backdrop.config.explain import suggest

PLAN = "plan.csv"  # what an ensemble's own plan is called wherever it is kept
By = Literal["area", "area_rank", "stratified", "random"]


@dataclass(frozen=True)
class Rule:
    """How objects are placed in folds and in the holdout.

    Attributes:
        folds: how many folds.
        holdout: share of the objects that only judge, 0 or more and less than 1.
        by: `area` balances mask area; `area_rank` deals by area rank, as the winners did; `stratified` spreads classes
            of area evenly; `random` shuffles.
        seed: random seed.
        view: rank by the mask area of this view alone; only for `area_rank`.
    """

    folds: int = 5
    holdout: float = 0.15
    by: By = "area"
    seed: int = 0
    view: str | None = None

    @property
    def file(self) -> str:
        """What a plan by this rule is called beside the ensemble's own."""
        view = f"-view{self.view}" if self.view else ""
        return f"plan-{self.by.replace('_', '-')}-{self.folds}-seed{self.seed}{view}.csv"


def as_by(text: str) -> By:
    """The word as an order.

    Raises:
        PlanError: if it is none.
    """
    if text not in get_args(By):
        raise PlanError(f"Objects can't be split by {text}", suggest(text, get_args(By)))
    return cast(By, text)


def as_folds(text: str) -> list[int]:
    """The folds of a list such as `0,1`; none for an empty one.

    Raises:
        ConfigError: if it is no such list.
    """
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError as error:
        raise ConfigError(f"--folds {text} is no list of folds", "Write it as --folds 0,1") from error
