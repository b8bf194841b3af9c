"""A student of a registered ensemble: what teaches it, and that nothing leaks."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from backdrop.common import storage
from backdrop.common.errors import MemberError
from backdrop.data.dataset import open_dataset, read_image, read_levels
from backdrop.data.pseudo_labels import PseudoLabels
from backdrop.evaluation.scoring import judges
from backdrop.inference.ensemble import gather
from backdrop.inference.member import ONNX, read_member, verify_member
from backdrop.steps import distill as step
from backdrop.steps.distill import distill
from backdrop.steps.promote import promote
from tests.tracking.workspace import Workspace

TINY = ("input.size=32x16", "network.width=2", "network.depth=1", "epochs=2", "augmentation=[]")


@pytest.fixture
def taught(workspace: Workspace, clean: None, store: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose ensemble of random networks is the champion of a model with the workspace's name."""
    monkeypatch.chdir(store)
    workspace.register(workspace.root.name, 1, 0.99)
    assert promote(str(workspace.data), workspace.root.name).outcome == "promoted"
    return workspace


def soften(workspace: Workspace) -> PseudoLabels:
    plan, digests = workspace.read()
    model = gather([read_member(folder) for folder in workspace.members(1)], None)
    return step.soften(step._divide(open_dataset(workspace.data), [plan], digests, model))


def test_each_photograph_is_taught_by_members_that_did_not_train_on_it(workspace: Workspace) -> None:
    plan, digests = workspace.read()
    extra = workspace.data / "test" / "new_01.jpg"
    extra.parent.mkdir()
    shutil.copy(next((workspace.data / "train").iterdir()), extra)
    labels = soften(workspace)
    assert {photo.stem for photo in labels.photos} == {row.image for row in plan.training(None)} | {"new_01"}
    both = gather([read_member(folder) for folder in workspace.members(1)], None)
    by_image = {row.image: one for row, one in judges([plan], digests, both).items()}
    for photo in labels.photos:
        image = read_image(photo.image)
        own = by_image.get(photo.stem, both)
        assert len(own.members) == (2 if photo.stem == "new_01" else 1)
        levels = read_levels(photo, labels.digests[photo.stem][1])
        assert np.array_equal(levels, np.rint(own.probability(image) * 255))
        others = [gather([member], None).probability(image) for member in both.members if member not in own.members]
        assert not any(np.array_equal(levels, np.rint(other * 255)) for other in others), "both members answer alike"


def test_soft_masks_are_predicted_once_and_damaged_ones_again(workspace: Workspace) -> None:
    first = soften(workspace)
    files = {photo.mask: photo.mask.stat().st_mtime_ns for photo in first.photos if photo.mask}
    damaged, deleted, *_ = files
    damaged.write_bytes(damaged.read_bytes()[:-1])
    deleted.unlink()
    assert soften(workspace) == first
    again = {path for path, changed in files.items() if path.stat().st_mtime_ns != changed}
    assert again == {damaged, deleted}


def test_a_student_is_a_member_of_all_folds_and_is_reused(taught: Workspace, tmp_path: Path) -> None:
    data, plan, out = str(taught.data), str(taught.plan), str(tmp_path / "student")
    model = f"models:/{tmp_path.name}@champion"
    record = distill(data, plan, model, out, overrides=TINY)
    assert not record.reused
    assert record.member.fold is None
    assert record.member.teacher is not None
    assert record.member.teacher.address == f"models:/{tmp_path.name}/1"
    member = read_member(tmp_path / "student")
    assert member.name == "student"
    verify_member(member, *taught.read())
    assert distill(data, plan, model, out, overrides=TINY).reused
    (tmp_path / "student" / ONNX).write_bytes(b"changed")
    with pytest.raises(MemberError, match=r"network\.onnx has changed since training"):
        read_member(tmp_path / "student")


def test_the_holdout_teaches_nothing(workspace: Workspace) -> None:
    held = {row.image for row in workspace.read()[0].holdout}
    assert held
    assert not held & {photo.stem for photo in soften(workspace).photos}
    masks = list((storage.cache_folder() / "soft").rglob("*.png"))
    assert len(masks) == len(workspace.read()[0].training(None))
