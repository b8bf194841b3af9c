"""The rule that splits objects into folds."""

from dataclasses import dataclass
from typing import Literal

from backdrop.common.errors import ConfigError

PLAN = "plan.csv"  # file name of an ensemble's own plan
By = Literal["area", "area_rank", "stratified", "random"]


@dataclass(frozen=True)
class Rule:
    """How objects are split into folds and a holdout.

    Attributes:
        folds: number of folds.
        holdout: share of objects in the holdout, at least 0 and less than 1.
        by: `area` balances mask area; `area_rank` deals objects out by area rank, as the winners did; `stratified`
            balances classes of area; `random` shuffles.
        seed: random seed.
        view: rank by the mask area of this view only; requires `area_rank`.
    """

    folds: int = 5
    holdout: float = 0.15
    by: By = "area"
    seed: int = 0
    view: str | None = None

    @property
    def file(self) -> str:
        """The file name of a plan by this rule, if it isn't the ensemble's own."""
        view = f"-view{self.view}" if self.view else ""
        return f"plan-{self.by.replace('_', '-')}-{self.folds}-seed{self.seed}{view}.csv"


def as_folds(text: str) -> list[int]:
    """The folds in a list such as `0,1`; none for empty text.

    Raises:
        ConfigError: if it isn't such a list.
    """
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError as error:
        raise ConfigError(f"--folds {text} is not a list of folds", "Write it as --folds 0,1") from error
