import os

import pytest

from backdrop.common.environment import environment


def test_variables_are_set_and_unset_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOR", "blue")
    monkeypatch.setenv("SIZE", "3")
    monkeypatch.delenv("SHAPE", raising=False)
    before = dict(os.environ)

    def change() -> None:
        with environment(COLOR="red", SIZE=None, SHAPE="round"):
            assert (os.environ["COLOR"], os.environ.get("SIZE"), os.environ["SHAPE"]) == ("red", None, "round")
            os.environ.pop("COLOR")
            os.environ["SIZE"] = "4"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change()
    assert dict(os.environ) == before
