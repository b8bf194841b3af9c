"""What is rendered changes only when somebody means it to: `make generate` writes the snapshots anew."""

from pathlib import Path

import pytest

from tests.charts.rendering import CHART
from tests.charts.snapshots import FOLDER, snapshots, stale

pytestmark = pytest.mark.e2e


def test_snapshots_are_up_to_date() -> None:
    assert stale() == []


def test_every_template_has_a_snapshot() -> None:
    templates = {
        str(path.relative_to(CHART / "templates")).replace("/", "-") for path in CHART.rglob("templates/**/*.yaml")
    }
    assert {path.name for path in snapshots()} == templates


def test_what_is_too_much_is_found() -> None:
    extra = Path(FOLDER, "full", "nobody-renders-this.yaml")
    extra.touch()
    try:
        assert stale() == ["full/nobody-renders-this.yaml"]
    finally:
        extra.unlink()
