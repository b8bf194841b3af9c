"""Parts that the pages share: their frame, their tables, and the format of figures."""

import base64
import hashlib
import math
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template

from backdrop import __version__


def sheet(name: str) -> str:
    """The text of a template or style sheet beside this file."""
    return (resources.files("backdrop.report") / name).read_text(encoding="utf-8")


def fill(template: str, /, **parts: str) -> str:
    """A template filled with its parts, which are HTML."""
    return Template(sheet(template)).substitute(parts)


def frame(
    kind: str,
    name: str,
    headline: str,
    body: str,
    about: str,
    origin: tuple[str, str],
    style: str = "",
    script: str = "",
) -> str:
    """A page that needs no other file and no network, and runs no script but `script`.

    Args:
        kind: the kind of report.
        name: the page's title.
        headline: HTML below the title.
        body: HTML of the sections.
        about: HTML of the paragraph at the end.
        origin: what the page is made from, such as `data`, and its digest.
        style: CSS rules in addition to those of every page.
        script: JavaScript at the end of the page; the page allows this one by its sha256, and no other.
    """
    words = {"kind": escape(kind), "name": escape(name), "version": escape(__version__)}
    words["origin"] = f"{escape(origin[0])} <code>{escape(origin[1])}</code>"
    style = sheet("style.css") + style
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"; script-src 'sha256-{digest}'" if script else ""
    end = f"<script>{script}</script>\n" if script else ""
    return fill(
        "frame.html", **words, headline=headline, body=body, about=about, style=style, allowed=allowed, script=end
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table that scrolls sideways if it is too wide; heads and cells are HTML."""
    head = "".join(f"<th>{title}</th>" for title in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def fact(title: str, figure: str, note: str) -> str:
    """A card with one large figure; all three are HTML."""
    return f'<div class="fact"><p>{title}</p><p class="figure">{figure}</p><p>{note}</p></div>'


def dice_text(value: float | None) -> str:
    """A Dice with five digits; empty for None."""
    return "" if value is None or not math.isfinite(value) else f"{value:.5f}"


def interval_text(low: float | None, high: float | None, form: str = "+.5f") -> str:
    """`LOW to HIGH` with five digits and signs, or in another format; empty for None."""
    return "" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def time_text(seconds: float) -> str:
    """`2 h 05 min`, `3 min 07 s` or `12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
