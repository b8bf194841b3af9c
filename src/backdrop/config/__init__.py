"""The YAML configuration: recipes, ensembles and search spaces."""

from backdrop.config.catalog import find_recipe, find_text, read_over, shipped
from backdrop.config.ensemble import (
    EarlyExit,
    Ensemble,
    ExitRule,
    Folds,
    Gate,
    Group,
    Part,
    PredictedDice,
    Scheme,
    find_ensemble,
)
from backdrop.config.network import Input, Pretrained, Tta, parse_size
from backdrop.config.recipe import Recipe, digest
from backdrop.config.space import BUDGETS, Budget, Space, find_space

__all__ = [
    "BUDGETS",
    "Budget",
    "EarlyExit",
    "Ensemble",
    "ExitRule",
    "Folds",
    "Gate",
    "Group",
    "Input",
    "Part",
    "PredictedDice",
    "Pretrained",
    "Recipe",
    "Scheme",
    "Space",
    "Tta",
    "digest",
    "find_ensemble",
    "find_recipe",
    "find_space",
    "find_text",
    "parse_size",
    "read_over",
    "shipped",
]
