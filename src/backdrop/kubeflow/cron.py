"""Checks cron expressions as KFP reads them: six fields, seconds first.

KFP would read five fields as seconds, minutes and so on, and run a weekly training every hour; so we refuse them.
The grammar is the one of https://pkg.go.dev/github.com/robfig/cron@v1.2.0, KFP's parser.
"""

import re

from backdrop.common.errors import ConfigError
from backdrop.common.words import count

# unit, lowest value, highest value, names of the values in order
UNITS = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")),
    ("day of the week", 0, 6, ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")),
)
PART = re.compile(r"(?:[*?]|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:/(?P<step>\d+))?")


def check_cron(text: str) -> str:
    """The cron expression with single spaces between its fields.

    Raises:
        ConfigError: if it doesn't have six fields, or a field is invalid.
    """
    fields = text.split()
    if len(fields) != len(UNITS):
        remedy = 'Start with the seconds and end with the day of the week: "0 0 3 * * 0" is 03:00 on Sundays'
        raise ConfigError(f"--cron {text!r} has {count(len(fields), 'field')}, not {len(UNITS)}", remedy)
    for field, (unit, low, high, names) in zip(fields, UNITS, strict=True):
        for part in field.split(","):
            if not _fits(part, low, high, names):
                also = f", {names[0]} to {names[-1]}" if names else ""
                remedy = f"Use {low} to {high}{also}, *, or ranges and steps such as {low}-{high}/2"
                raise ConfigError(f"--cron {text!r}: {part or 'an empty field'} isn't a valid {unit}", remedy)
    return " ".join(fields)


def _fits(part: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    match = PART.fullmatch(part)
    if match is None or match["step"] == "0":
        return False
    values = [_number(text, low, names) for text in (match["low"], match["high"]) if text]
    return all(low <= value <= high for value in values) and values == sorted(values)


def _number(text: str, low: int, names: tuple[str, ...]) -> int:
    if text.upper() in names:
        return low + names.index(text.upper())
    return int(text) if text.isdecimal() else -1
