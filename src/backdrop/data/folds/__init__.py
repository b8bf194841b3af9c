"""The fold plan: which object is in which fold, or in the holdout that no member ever trains on.

It assigns objects, never single images, so that no fold sees an object of another.
"""

from backdrop.data.folds.assign import Assignments, assign
from backdrop.data.folds.plan import (
    HOLDOUT,
    FoldPlan,
    Row,
    dump_plan,
    follows,
    is_plan,
    make_plan,
    object_areas,
    plans_digest,
    read_plan,
    read_plans,
    refold,
    verify,
)

__all__ = [
    "HOLDOUT",
    "Assignments",
    "FoldPlan",
    "Row",
    "assign",
    "dump_plan",
    "follows",
    "is_plan",
    "make_plan",
    "object_areas",
    "plans_digest",
    "read_plan",
    "read_plans",
    "refold",
    "verify",
]
