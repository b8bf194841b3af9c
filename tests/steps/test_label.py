"""Pseudo-labels: what is kept, what trains on them, and above all that nothing leaks."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from backdrop.cli import app
from backdrop.common.errors import DataError, MemberError
from backdrop.config.folds import Rule
from backdrop.data.dataset import file_digest, open_dataset, read_image, read_mask
from backdrop.data.folds import FoldPlan, Row, dump_plan, make_plan, read_plan, verify
from backdrop.data.masks import Mask, mask_digest
from backdrop.data.pseudo_labels import LABELS, mask_name, read_labels
from backdrop.inference.ensemble import EnsembleModel, Outcome, gather
from backdrop.inference.member import read_member, verify_member
from backdrop.inference.uncertainty import unconfidence
from backdrop.steps.evaluate import evaluate
from backdrop.steps.label import label, labelers
from backdrop.steps.split import split
from backdrop.steps.train import train
from tests.conftest import SMALL, draw_pair

# Long enough that two members differ in where they see the object.
LONGER = (*SMALL, "epochs=12")


@pytest.fixture
def unlabeled(data: Path) -> Path:
    """`data` with three more objects of two views, without masks, in `test`."""
    extra = data.parent / "extra"
    for index in range(3):
        for view in (1, 2):
            draw_pair(extra, f"new{index}_{view:02d}", 900 + 10 * index + view)
    shutil.copytree(extra / "train", data / "test")
    return data


@pytest.fixture
def members(trained_pair: Callable[[tuple[str, ...]], list[str]]) -> list[str]:
    """One member for each of the two folds."""
    return trained_pair(LONGER)


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / LABELS).read_text().splitlines()[1:]))


def test_a_fold_is_labeled_only_by_members_that_never_saw_its_truth(
    unlabeled: Path, plan: Path, members: list[str], tmp_path: Path
) -> None:
    record = label(str(unlabeled), str(plan), members, str(tmp_path / "l"), max_uncertainty=1e9)
    assert record.kept == {"0": 6, "1": 6}
    for fold in (0, 1):
        alone = gather([read_member(Path(members[fold]))], None)
        other = gather([read_member(Path(members[1 - fold]))], None)
        differs = False
        for stem, photo in open_dataset(unlabeled).unlabeled.items():
            image, written = read_image(photo.image), read_mask(tmp_path / "l" / mask_name(fold, stem))
            assert np.array_equal(written, alone.mask(image))
            differs |= not np.array_equal(written, other.mask(image))
        assert differs, "both members answer alike: this test shows nothing"


@given(st.lists(st.integers(0, 2), min_size=4, max_size=8), st.data())
def test_who_may_label_has_trained_on_no_object_of_the_fold(places: list[int], draw: st.DataObject) -> None:
    """Members of any plan: each is given by the objects that it did not train on."""

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    names = [f"car{i}" for i in range(len(places))]
    plan = FoldPlan("x", tuple(Row(f"{n}_01", n, "01", 1, place) for n, place in zip(names, places, strict=True)))
    unseen = {f"m{i}": draw.draw(st.sets(st.sampled_from(names))) for i in range(4)}
    judges = {
        name: EnsembleModel(tuple(Named(m) for m in unseen if name in unseen[m]), {})  # type: ignore[misc]  # names do
        for name in names
        if any(name in objects for objects in unseen.values())
    }
    groups = {fold: {n for n, place in zip(names, places, strict=True) if place == fold} for fold in set(places)}
    expected = {fold: {m for m in unseen if group <= unseen[m]} for fold, group in groups.items()}
    if not all(expected.values()):
        with pytest.raises(MemberError, match=r"No member may label for fold \d"):
            labelers(plan, judges)
        return
    assert {fold: {m.name for m in one.members} for fold, one in labelers(plan, judges).items()} == expected


def test_an_object_is_kept_as_a_whole_by_its_mean_unconfidence(
    unlabeled: Path, plan: Path, members: list[str], tmp_path: Path
) -> None:
    label(str(unlabeled), str(plan), members, str(tmp_path / "all"), max_uncertainty=1e9)
    means: dict[tuple[str, str], list[float]] = {}
    for row in rows(tmp_path / "all"):
        means.setdefault((row["fold"], row["object"]), []).append(float(row["unconfidence"]))
        model = gather([read_member(Path(members[int(row["fold"])]))], None)
        image = read_image(unlabeled / "test" / f"{row['image']}.jpg")
        assert float(row["unconfidence"]) == pytest.approx(unconfidence(model.probability(image)), rel=1e-5)
    limit = sorted(sum(values) / 2 for values in means.values())[2] * 1.0001
    record = label(str(unlabeled), str(plan), members, str(tmp_path / "some"), max_uncertainty=limit)
    assert sum(record.kept.values()) == 6
    for row in rows(tmp_path / "some"):
        assert (row["kept"] == "yes") == (sum(means[row["fold"], row["object"]]) / 2 <= limit)
        path = tmp_path / "some" / mask_name(int(row["fold"]), row["image"])
        assert path.exists() == (row["kept"] == "yes")
        assert row["mask_sha256"] == (mask_digest(read_mask(path)) if path.exists() else "")


def test_a_member_trained_on_pseudo_labels_is_another_and_is_judged_as_any(
    unlabeled: Path, plan: Path, members: list[str], tmp_path: Path
) -> None:
    folder = str(tmp_path / "l")
    label(str(unlabeled), str(plan), members, folder, max_uncertainty=1e9)
    records = [train(str(unlabeled), str(plan), "tiny", k, str(tmp_path / f"p{k}"), SMALL, folder) for k in (0, 1)]
    first = read_member(Path(members[0])).record
    assert records[0].member.key != first.key
    assert records[0].member.weights != first.weights
    assert records[0].member.pseudo.startswith("sha256:")
    assert records[0].member.pseudo_objects == tuple(sorted({one["object"] for one in rows(Path(folder))}))
    folds = read_plan(plan)
    verify_member(read_member(Path(records[0].address)), folds, verify(folds, open_dataset(unlabeled)))
    evaluation = evaluate(str(unlabeled), str(plan), [one.address for one in records], str(tmp_path / "report"))
    assert evaluation.holdout.ensemble is not None


def test_a_member_is_not_judged_on_a_later_holdout_that_it_knows_by_pseudo_labels(
    unlabeled: Path, plan: Path, members: list[str], tmp_path: Path
) -> None:
    folder, later = str(tmp_path / "l"), str(tmp_path / "later.csv")
    label(str(unlabeled), str(plan), members, folder, max_uncertainty=1e9)
    trained = [train(str(unlabeled), str(plan), "tiny", k, str(tmp_path / f"p{k}"), SMALL, folder) for k in (0, 1)]
    for name in ("train", "train_masks"):
        for path in sorted((tmp_path / "extra" / name).glob("new0_*")):
            shutil.copy(path, unlabeled / name)
    for path in (unlabeled / "test").glob("new0_*"):
        path.unlink()
    split(str(unlabeled), later, Rule(folds=2, holdout=0.3), extend=str(plan))
    assert read_plan(later).assignment()["new0"] is None
    evaluate(str(unlabeled), later, members, str(tmp_path / "fair"))
    with pytest.raises(MemberError, match="Member tiny-0 was trained on pseudo-labels of new0, which the"):
        evaluate(str(unlabeled), later, [one.address for one in trained], str(tmp_path / "unfair"))


def test_labels_of_another_plan_or_altered_ones_are_refused(
    unlabeled: Path, plan: Path, members: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "l"
    label(str(unlabeled), str(plan), members, str(folder), max_uncertainty=1e9)
    other = tmp_path / "other.csv"
    split(str(unlabeled), str(other), Rule(folds=2, seed=5, by="random"))
    with pytest.raises(DataError, match=r"labels\.csv has no pseudo-labels for this plan\. Make them with"):
        train(str(unlabeled), str(other), "tiny", 0, str(tmp_path / "x"), SMALL, str(folder))
    mask = next((folder / "fold-0").iterdir())
    mask.write_bytes(next((unlabeled / "train_masks").iterdir()).read_bytes())
    with pytest.raises(DataError, match="has changed since"):
        train(str(unlabeled), str(plan), "tiny", 0, str(tmp_path / "x"), SMALL, str(folder))
    text = (folder / LABELS).read_text()
    (folder / LABELS).write_text(text.replace(",0,", ",zero,"))
    with pytest.raises(DataError, match="is damaged"):
        read_labels(folder, read_plan(plan), open_dataset(unlabeled), 0)


def test_photographs_that_cannot_be_used_are_named_once_and_the_others_labeled(
    unlabeled: Path, plan: Path, members: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(str(unlabeled), str(plan), members, str(tmp_path / "all"), max_uncertainty=1e9)
    broken = sorted((unlabeled / "test").iterdir())
    whole = [path.read_bytes() for path in broken]
    broken[0].write_bytes(whole[0][:-500])
    broken[2].write_bytes(b"")
    options = ["--plan", plan, "--members", *members, "--out", tmp_path / "l", "--max-uncertainty", "1e9"]
    result = CliRunner().invoke(app.app, ["label", *map(str, [unlabeled, *options])])
    assert result.exit_code == 1
    assert result.stdout.endswith("\n2 photographs can't be used\n")
    text = result.output + "".join(capsys.readouterr())
    assert text.count(f"{broken[0]} is truncated. Copy it again from where it came, or remove it.") == 1
    assert text.count(f"{broken[2]} is not a readable image. Copy it again from where it came, or remove it.") == 1
    expected = [row for row in rows(tmp_path / "all") if row["image"] not in (broken[0].stem, broken[2].stem)]
    assert rows(tmp_path / "l") == expected
    for path in broken:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"test has no photograph that can be used\. See the lines above"):
        label(str(unlabeled), str(plan), members, str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_label_names_the_photograph_that_it_was_predicted_from(
    unlabeled: Path, plan: Path, members: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = unlabeled / "test" / "new0_01.jpg"
    before, real = file_digest(photo), EnsembleModel.cut

    def cut(model: EnsembleModel, outcome: Outcome, view: str) -> Mask:
        shutil.copy(unlabeled / "test" / "new1_01.jpg", photo)
        return real(model, outcome, view)

    monkeypatch.setattr(EnsembleModel, "cut", cut)
    record = label(str(unlabeled), str(plan), members, str(tmp_path / "l"), max_uncertainty=1e9)
    assert record.failed == 1
    assert {row["image_sha256"] for row in rows(tmp_path / "l") if row["image"] == photo.stem} == {before}


def test_files_of_test_that_are_passed_over_are_told(
    unlabeled: Path, plan: Path, members: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (unlabeled / "test" / "new9_01.nef").write_bytes(b"raw")
    (unlabeled / "train" / "notes.txt").write_text("not of test")
    label(str(unlabeled), str(plan), members, str(tmp_path / "l"))
    captured = capsys.readouterr()
    assert "1 file passed over: .nef (1)" in captured.out + captured.err


@pytest.mark.parametrize("place", ["holdout", "0"])
def test_a_photograph_of_the_plan_is_not_labeled_under_another_name(
    unlabeled: Path, plan: Path, members: list[str], tmp_path: Path, place: str
) -> None:
    stem = next(line.split(",")[0] for line in plan.read_text().splitlines() if line.endswith(f",{place}"))
    shutil.copy(unlabeled / "train" / f"{stem}.jpg", unlabeled / "test" / "again_01.jpg")
    with pytest.raises(DataError, match=rf"again_01\.jpg is the same photograph as \S+/{stem}\.jpg, which"):
        label(str(unlabeled), str(plan), members, str(tmp_path / "l"))


def test_what_can_not_be_labeled_is_named(
    unlabeled: Path, plan: Path, members: list[str], tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    with pytest.raises(MemberError, match="No member may label for fold 1: each has trained on it"):
        label(str(unlabeled), str(plan), members[:1], str(tmp_path / "l"))
    photo = next((unlabeled / "train").iterdir())
    shutil.copy(photo, unlabeled / "test" / photo.name)
    with pytest.raises(DataError, match=r"which the plan places\. Remove it from test"):
        label(str(unlabeled), str(plan), members, str(tmp_path / "l"))
    bare = make_dataset(name="bare")
    own = tmp_path / "bare.csv"
    own.write_bytes(dump_plan(make_plan(open_dataset(bare), Rule(2, 0.15, "area", 0))))
    (bare / "test").mkdir()
    (bare / "test" / "a_01.cr2").touch()
    with pytest.raises(DataError, match=r"test has no photographs\..* \(1 file passed over: \.cr2 \(1\)\)"):
        label(str(bare), str(own), members, str(tmp_path / "l"))
    assert not (tmp_path / "l").exists()
