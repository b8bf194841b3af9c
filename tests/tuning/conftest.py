"""Searches on a Ray of their own."""

import pytest

NAMED = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever cluster the environment names, tests have their own."""
    for name in NAMED:
        monkeypatch.delenv(name, raising=False)
