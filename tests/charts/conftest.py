"""What renders the chart needs helm."""

import pytest

from tests.charts.rendering import ABSENT, HELM


@pytest.fixture(autouse=True)
def _helm(request: pytest.FixtureRequest) -> None:
    if HELM is None and request.node.get_closest_marker("e2e"):
        pytest.skip(ABSENT)
