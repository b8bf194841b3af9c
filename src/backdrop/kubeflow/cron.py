"""KFP's cron form: six fields, the seconds first.

With five it would take minutes for seconds and so on, and run a weekly training every hour; so that is refused here.
The grammar is that of https://pkg.go.dev/github.com/robfig/cron@v1.2.0, which KFP parses it with.
"""

import re

from backdrop.common.errors import ConfigError

# unit, lowest, highest, names of the values from the lowest on
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
    """The cron expression, one blank between its fields.

    Raises:
        ConfigError: if it isn't of six fields, or a field isn't what it may be.
    """
    fields = text.split()
    if len(fields) != len(UNITS):
        remedy = 'Begin with the seconds and end with the day of the week: "0 0 3 * * 0" is at 03:00 on Sundays'
        raise ConfigError(f"--cron {text!r} has {len(fields)} fields, not {len(UNITS)}", remedy)
    for field, (unit, low, high, names) in zip(fields, UNITS, strict=True):
        for part in field.split(","):
            if not _fits(part, low, high, names):
                also = f", {names[0]} to {names[-1]}" if names else ""
                remedy = f"Use {low} to {high}{also}, *, or ranges and steps such as {low}-{high}/2"
                raise ConfigError(f"--cron {text!r}: {part or 'nothing'} is no {unit}", remedy)
    return " ".join(fields)


def _fits(part: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    found = PART.fullmatch(part)
    if found is None or found["step"] == "0":
        return False
    values = [_number(text, low, names) for text in (found["low"], found["high"]) if text]
    return all(low <= value <= high for value in values) and values == sorted(values)


def _number(text: str, low: int, names: tuple[str, ...]) -> int:
    if text.upper() in names:
        return low + names.index(text.upper())
    return int(text) if text.isdecimal() else -1
