"""What others say, in an error's one line."""

SHOWN = 300  # characters


def short(message: object) -> str:
    """On one line, and cut."""
    text = " ".join(str(message).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def cause(message: str | None) -> str:
    """Our own error in the end of a log that Ray repeats, or else its last line."""
    lines = [line for line in (message or "").splitlines() if line.strip()]
    # Ray's own line about the command may come last, though it was first.
    ours = [line for line in lines if line.startswith("error: ")]
    return short((ours or lines or ["no message"])[-1])
