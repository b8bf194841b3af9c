"""Kubernetes' quantities, such as `4`, `300m`, `1.5Gi` and `1e3`."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

FORM = re.compile(r"\+?(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)(?P<suffix>[numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?")
DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
MEBIBYTE = 2**20
BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def parse_quantity(text: str) -> Decimal:
    """The value of a quantity, as Kubernetes reads it.

    Raises:
        ValueError: if it isn't one.
    """
    match = FORM.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} isn't a quantity")
    number, suffix = Decimal(match["number"]), match["suffix"] or ""
    if suffix in BINARY:
        return number * Decimal(2) ** BINARY[suffix]
    exponent = DECIMAL[suffix] if suffix in DECIMAL else int(suffix[1:])
    return number.scaleb(exponent)


def is_quantity(text: str) -> bool:
    """Whether Kubernetes takes the text as an amount of something, which is more than 0."""
    try:
        return parse_quantity(text) > 0
    except ValueError:
        return False


def is_size(text: str) -> bool:
    """Whether it is an amount of memory or disk: at least 1 MiB, because `16` and `512m` mean other units."""
    return is_quantity(text) and parse_quantity(text) >= MEBIBYTE


def _checked_size(value: str) -> str:
    if not is_size(value):
        raise ValueError(f"{value} is less than 1Mi; write a size such as 16Gi")
    return value


def _checked(value: Any) -> str:
    text = str(value)
    if isinstance(value, bool) or not is_quantity(text):
        raise ValueError(f"{text} isn't an amount such as 4, 500m or 16Gi")
    return text


# A positive quantity, as text; a number becomes text.
Quantity = Annotated[str, BeforeValidator(_checked)]
# One of memory or of disk.
Size = Annotated[Quantity, AfterValidator(_checked_size)]
