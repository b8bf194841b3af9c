"""Recipes and ensembles, as YAML says them."""

from backdrop.recipe.ensemble import Ensemble, Folds, Gate, Group, Part, Scheme, find_ensemble
from backdrop.recipe.network import Input, Pretrained, Tta, parse_size
from backdrop.recipe.recipe import Recipe, digest
from backdrop.recipe.shipped import find_recipe, recipe_text, shipped

__all__ = [
    "Ensemble",
    "Folds",
    "Gate",
    "Group",
    "Input",
    "Part",
    "Pretrained",
    "Recipe",
    "Scheme",
    "Tta",
    "digest",
    "find_ensemble",
    "find_recipe",
    "parse_size",
    "recipe_text",
    "shipped",
]
