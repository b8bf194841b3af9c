"""No step takes an empty address, as of an unset variable, for the current folder or for nothing."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from backdrop import (
    check,
    estimate,
    evaluate,
    import_photos,
    label,
    merge,
    predict,
    review,
    sample,
    split,
    train,
)
from backdrop.common.errors import BackdropError
from backdrop.steps.import_ import ImportOptions
from tests.conftest import SMALL

Call = Callable[[str, str], object]  # with a dataset and its plan
MEMBER = "runs:/1/member"
CALLS: dict[str, Call] = {
    "check": lambda _, __: check(""),
    "check ensembles": lambda data, _: check(data, [""]),
    "estimate": lambda _, __: estimate("", "tiny"),
    "evaluate data": lambda _, plan: evaluate("", plan, [MEMBER], "new"),
    "evaluate plan": lambda data, _: evaluate(data, "", [MEMBER], "new"),
    "evaluate members": lambda data, plan: evaluate(data, plan, [""], "new"),
    "evaluate out": lambda data, plan: evaluate(data, plan, [MEMBER], ""),
    "evaluate ensemble": lambda data, plan: evaluate(data, plan, [MEMBER], "new", ensemble=""),
    "import source": lambda _, __: import_photos("", "new", ImportOptions()),
    "import out": lambda data, _: import_photos(data, "", ImportOptions()),
    "import masks": lambda data, _: import_photos(data, "new", ImportOptions(masks="")),
    "label members": lambda data, plan: label(data, plan, [""], "new"),
    "label out": lambda data, plan: label(data, plan, [MEMBER], ""),
    "label ensemble": lambda data, plan: label(data, plan, [MEMBER], "new", ensemble=""),
    "merge parts": lambda _, __: merge([""], "new"),
    "merge out": lambda data, _: merge([f"{data}/train"], ""),
    "predict images": lambda _, __: predict("", "new", [MEMBER]),
    "predict members": lambda data, _: predict(f"{data}/train", "new", [""]),
    "predict out": lambda data, _: predict(f"{data}/train", "", [MEMBER]),
    "review members": lambda data, plan: review(data, plan, [""], "new"),
    "review out": lambda data, plan: review(data, plan, [MEMBER], ""),
    "review ensemble": lambda data, plan: review(data, plan, [MEMBER], "new", ensemble=""),
    "sample": lambda _, __: sample("", 1, 1, "96x64"),
    "split data": lambda _, __: split("", "new"),
    "split out": lambda data, _: split(data, ""),
    "split extend": lambda data, _: split(data, "new", extend=""),
    "split holdout_from": lambda data, _: split(data, "new", holdout_from=""),
    "train data": lambda _, plan: train("", plan, "tiny", 0, "new", SMALL),
    "train plan": lambda data, _: train(data, "", "tiny", 0, "new", SMALL),
    "train recipe": lambda data, plan: train(data, plan, "", 0, "new", SMALL),
    "train out": lambda data, plan: train(data, plan, "tiny", 0, "", SMALL),
    "train pseudo": lambda data, plan: train(data, plan, "tiny", 0, "new", SMALL, pseudo=""),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_empty_address_is_refused(call: Call, data: Path, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "test").mkdir()
    cv2.imwrite(str(data / "test" / "car99_01.jpg"), np.zeros((8, 8, 3), np.uint8))
    monkeypatch.chdir(data)  # where an empty path would mean something
    before = sorted(data.rglob("*"))
    with pytest.raises(BackdropError, match=r"is empty|There is no (ensemble|recipe) \."):
        call(str(data), str(plan))
    assert sorted(data.rglob("*")) == before
