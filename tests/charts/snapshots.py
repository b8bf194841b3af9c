"""What the chart renders, kept as files: `python -m tests.charts.snapshots` writes them again, `--check` compares."""

import re
import sys
from pathlib import Path

from tests.charts.rendering import ABSENT, HELM, rendered

FOLDER = Path(__file__).parent / "snapshots"
KEPT = ("defaults", "full")
SOURCE = re.compile(r"^---\n# Source: backdrop/templates/(.+)\n", re.MULTILINE)


def snapshots() -> dict[Path, str]:
    """Every file as it should be: a file for each template, a folder for each case."""
    files: dict[Path, str] = {}
    for case in KEPT:
        _, *parts = SOURCE.split(rendered(case))
        for template, text in zip(parts[::2], parts[1::2], strict=True):
            path = FOLDER / case / template.replace("/", "-")
            files[path] = files.get(path, "") + f"---\n{text.rstrip()}\n"
    return files


def stale() -> list[str]:
    """The files that are missing, changed or too many."""
    wanted = snapshots()
    texts = {path: path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.yaml")}
    return sorted(str(path.relative_to(FOLDER)) for path in {*wanted, *texts} if wanted.get(path) != texts.get(path))


def write() -> None:
    for path in FOLDER.rglob("*.yaml"):
        path.unlink()
    for path, text in snapshots().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if HELM is None:
        sys.exit(ABSENT)
    if "--check" not in sys.argv:
        write()
    elif found := stale():
        sys.exit(f"tests/charts/snapshots is out of date: {', '.join(found)}. Run: make generate")
