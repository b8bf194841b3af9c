"""Words for numbers and times."""

from datetime import UTC, datetime


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 object`, `3 objects`, `1,000 entries` with `plural` given as `entries`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def now() -> str:
    """The present time in ISO 8601 with its offset from UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def moment(time: str) -> str:
    """A time in ISO 8601 with its offset from UTC as `2026-01-31 12:00 UTC`."""
    return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
