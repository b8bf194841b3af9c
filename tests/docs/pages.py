"""The pages of the documentation, and what stands in them: headings, links, fenced blocks, commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "charts/backdrop/README.md")
PAGES = [*(ROOT / name for name in NAMES if (ROOT / name).is_file()), *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```(?P<language>[\w-]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CONTINUED = re.compile(r" *\\\n *|\n {4,}(?=[\[-])")
HIDDEN = "…"  # what a page leaves out


@dataclass(frozen=True)
class Block:
    """A fenced block and the line on which its fence stands."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Shown:
    """A command behind a prompt, and the output below it."""

    block: Block
    words: list[str]
    output: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, match.start()) + 1, match["language"], match["text"])


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    made: dict[str, int] = {}
    slugs = set()
    for title in re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower()).replace(" ", "-")
        slugs.add(f"{slug}-{made[slug]}" if slug in made else slug)
        made[slug] = made.get(slug, 0) + 1
    return slugs


def links(page: Path) -> list[str]:
    """All links to other files, or to anchors."""
    matches = LINK.findall(INLINE.sub("", prose(page)))
    return [link for link in matches if not re.match(r"[a-z]+:", link)]


def commands(page: Path) -> list[str]:
    """Every `backdrop …` of a page: in fenced blocks, and inline."""
    lines = [line for block in blocks(page) if block.language in ("", "sh") for line in _lines(block.text)]
    lines += [f"{text} {HIDDEN}" for text in INLINE.findall(prose(page))]  # most lack something
    return [line for line in lines if line.startswith("backdrop ")]


def _lines(text: str) -> Iterator[str]:
    for line in CONTINUED.sub(" ", text).splitlines():
        yield re.sub(r"^([A-Z_]+=\S+ )*", "", line.removeprefix("$ ")).partition("  #")[0].strip()


def shown(page: Path) -> Iterator[Shown]:
    """Every `$ backdrop …` with the output that the page shows for it."""
    for block in blocks(page):
        for part in re.split(r"^\$ ", CONTINUED.sub(" ", block.text), flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            if command.startswith("backdrop "):
                yield Shown(block, shlex.split(command)[1:], output)
