"""RAY_ADDRESS in each of its forms: joined, or refused in one line and within seconds."""

import time

import pytest

from backdrop.common.errors import TuningError
from backdrop.tuning.ray_runner import cluster
from tests.fakes.http import free_port


@pytest.mark.parametrize(
    "address", ["ray://127.0.0.1:10001", "tcp://head:6379", "head", "head:port", "head:99999", ":6379"]
)
def test_an_address_that_no_search_can_use(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(TuningError, match=r"isn't an address that a search can use\. Set it to") as caught, cluster():
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "auto"])
def test_a_cluster_that_is_not_there(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path_factory.mktemp("ray")))  # no trace of somebody's cluster
    monkeypatch.setenv("RAY_ADDRESS", address.format(port=free_port()))
    start = time.monotonic()
    with pytest.raises(TuningError, match="There is no Ray cluster at RAY_ADDRESS=") as caught, cluster():
        pass
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 60  # Ray alone asks for longer than that


def test_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://me:hunter2@head:10001")
    with pytest.raises(TuningError) as caught, cluster():
        pass
    assert "hunter2" not in str(caught.value)
