"""Singular and plural."""


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 object`, `3 objects`, `1,000 entries` with `plural` given as `entries`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
