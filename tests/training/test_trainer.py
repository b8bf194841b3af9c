"""What training may do between its steps: replay, change between phases, keep several networks, resume."""

from pathlib import Path

import pytest
import torch

from backdrop.config import find_recipe
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import read_plan, verify
from backdrop.inference.member import read_member
from backdrop.steps.train import train
from backdrop.training import trainer
from backdrop.training.samples import Samples
from backdrop.training.step import train_step
from tests.conftest import SMALL

CONSTANT = "schedule=[{kind: constant, epochs: 1, lr: 1e-2}]"


class Spy:
    """Notes which images each step trained on, and with which optimizer and rate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: list[list[float]] = []
        self.losses: list[float] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        self.lrs: list[float] = []
        monkeypatch.setattr(trainer, "train_step", self.step)

    def step(self, model, optimizer, loss_function, batches, *how) -> torch.Tensor:
        loss = train_step(model, optimizer, loss_function, batches, *how)
        self.images.append([float(image.sum()) for batch in batches for image in batch.images])
        self.losses.append(float(loss))
        self.optimizers.append(optimizer)
        self.lrs.append(optimizer.param_groups[0]["lr"])
        return loss


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


def run(data: Path, plan: Path, folder: Path, *overrides: str) -> None:
    train(str(data), str(plan), "tiny", 0, str(folder), (*SMALL, CONSTANT, "augmentation=[]", *overrides))


def test_the_hardest_batch_of_each_few_is_trained_on_once_more(data: Path, plan: Path, tmp_path: Path, spy) -> None:
    run(data, plan, tmp_path / "m", "batch_size=1", "replay_every=2", "epochs=1")
    assert len(spy.images) == 6  # 4 photographs, and one of each two again
    for start in (0, 3):
        first, second, again = spy.images[start : start + 3]
        hardest = first if spy.losses[start] > spy.losses[start + 1] else second
        assert again == hardest


def test_no_image_is_lost_in_accumulation(data: Path, plan: Path, tmp_path: Path, spy: Spy) -> None:
    run(data, plan, tmp_path / "m", "batch_size=1", "accumulate=3", "epochs=1")
    assert [len(images) for images in spy.images] == [3, 1]
    assert len({value for images in spy.images for value in images}) == 4


def test_a_phase_may_bring_its_own_optimizer(data: Path, plan: Path, tmp_path: Path, spy: Spy) -> None:
    phases = (
        "schedule=[{kind: constant, epochs: 2, lr: 1e-2}, "
        "{kind: constant, epochs: 1, lr: 1e-3, optimizer: {kind: rmsprop}}, {kind: constant, epochs: 1, lr: 1e-4}]"
    )
    run(data, plan, tmp_path / "m", phases, "epochs=4", "batch_size=4")
    assert [type(one).__name__ for one in spy.optimizers] == ["AdamW", "AdamW", "RMSprop", "RMSprop"]
    assert spy.optimizers[0] is spy.optimizers[1]
    assert spy.optimizers[2] is spy.optimizers[3]
    assert spy.lrs == [1e-2, 1e-2, 1e-3, 1e-4]


def test_an_optimizer_may_be_reset_at_each_epoch(data: Path, plan: Path, tmp_path: Path, spy: Spy) -> None:
    run(data, plan, tmp_path / "m", "legacy.reset_each_epoch=true", "epochs=3", "batch_size=4")
    assert len({id(one) for one in spy.optimizers}) == 3


def test_a_phase_may_bring_its_own_augmentation(data: Path, plan: Path) -> None:
    phases = (
        "schedule=[{kind: constant, epochs: 1, lr: 1e-2, augmentation: [{kind: hflip, p: 1}]}, "
        "{kind: constant, epochs: 1, lr: 1e-2}, {kind: constant, epochs: 1, lr: 1e-2, augmentation: []}]"
    )
    recipe = find_recipe("tiny", (*SMALL, phases, "epochs=3", "batch_size=4"))
    dataset, folds = open_dataset(data), read_plan(plan)
    photos = dataset.select(row.image for row in folds.training(0))
    samples = Samples(photos, verify(folds, dataset), recipe)

    def images(epoch: int) -> torch.Tensor:
        (found,) = samples.batches(epoch, samples.steps(epoch)[0], torch.device("cpu"))
        order = found.images.sum(dim=(1, 2, 3)).argsort()
        return found.images[order]

    assert torch.equal(images(0), images(1))  # the second phase goes on as the first did
    assert torch.equal(images(0).flip(3), images(2))


HALF_FIRST = "schedule=[{kind: constant, epochs: 2, lr: 1e-2, scale: 0.5}, {kind: constant, epochs: 1, lr: 1e-2}]"


@pytest.mark.parametrize("where", ["host", "device"])
def test_a_phase_may_train_at_a_smaller_size(data: Path, plan: Path, where: str) -> None:
    dataset, folds = open_dataset(data), read_plan(plan)
    photos = dataset.select(row.image for row in folds.training(0))

    def pairs(*overrides: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        settings = (*SMALL, f"compute.augment={where}", "augmentation=[{kind: affine}]", "epochs=3", *overrides)
        samples = Samples(photos, verify(folds, dataset), find_recipe("tiny", settings))
        steps = samples.stream(0, 0, torch.device("cpu"))
        return [(batch.images, batch.targets) for step in steps for batch in step]

    shrunk, full = pairs(HALF_FIRST), pairs()
    assert [tuple(image.shape[2:]) for image, _ in shrunk] == [(16, 32)] * 4 + [(32, 64)] * 2
    for (image, mask), (image_before, mask_before) in zip(shrunk[:4], full, strict=False):
        for small, large in ((image, image_before), (mask, mask_before)):
            mean = large.unflatten(2, (16, 2)).unflatten(4, (32, 2)).mean(dim=(3, 5))
            torch.testing.assert_close(small, mean)
        assert image.is_contiguous(memory_format=torch.channels_last)
        assert ((mask > 0) & (mask < 1)).sum() > 0  # soft
    for (image, mask), (image_before, mask_before) in zip(shrunk[4:], full[4:], strict=True):
        assert torch.equal(image, image_before)
        assert torch.equal(mask, mask_before)


@pytest.mark.parametrize("kind", ["bce_dice", "bce_log", "boundary", "boundary, profile: box, squared: true"])
def test_every_loss_takes_the_soft_masks_of_a_smaller_size(data: Path, plan: Path, tmp_path: Path, kind: str) -> None:
    run(data, plan, tmp_path / "m", HALF_FIRST, "epochs=3", f"loss={{kind: {kind}}}")
    losses = [row["loss"] for row in read_member(tmp_path / "m").history()]
    assert losses[1] < losses[0]


def test_pseudo_labeled_photographs_weigh_less(data: Path, plan: Path) -> None:
    recipe = find_recipe("tiny", (*SMALL, "batch_size=4", "pseudo_weight=0.25"))
    dataset, folds = open_dataset(data), read_plan(plan)
    photos = dataset.select(row.image for row in folds.training(0))
    samples = Samples(photos[:3], verify(folds, dataset), recipe, photos[3:])
    (found,) = samples.batches(0, samples.steps(0)[0], torch.device("cpu"))
    assert found.weights is not None
    assert sorted(found.weights.tolist()) == [0.25, 1, 1, 1]
    assert found.weight() == 3.25


def test_snapshots_keep_the_best_epoch_of_each_of_the_last_cycles(data: Path, plan: Path, tmp_path: Path) -> None:
    cycles = "schedule=[{kind: cycle, epochs: 6, lrs: [1e-2, 1e-3]}]"
    run(data, plan, tmp_path / "m", cycles, "epochs=6", "snapshots=2", "ema=0.5")
    member = read_member(tmp_path / "m")
    snapshot_ensemble = member.network()
    assert len(snapshot_ensemble.networks) == 2  # type: ignore[arg-type]  # it's a ModuleList
    history = member.history()
    best = max(history[2:], key=lambda row: row["dice"])
    assert member.record.selected_epoch == best["epoch"]
    image = torch.rand(1, 3, 32, 64)
    with torch.inference_mode():
        logits = [network(image) for network in snapshot_ensemble.networks]  # type: ignore[union-attr]  # as above
        torch.testing.assert_close(snapshot_ensemble(image), (logits[0] + logits[1]) / 2)
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("kept", ["ema=0.9", "snapshots=2", "legacy.reset_each_epoch=true", "replay_every=2"])
def test_a_resumed_run_ends_like_one_that_never_stopped(
    data: Path, plan: Path, tmp_path: Path, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("schedule=[{kind: cycle, epochs: 6, lrs: [1e-2, 1e-3]}]", "epochs=5", "augmentation=[{kind: affine}]")
    settings += ("checkpoint.every_steps=1",)
    run(data, plan, tmp_path / "whole", *settings, kept)

    steps = []

    def step_or_stop(*args) -> torch.Tensor:
        steps.append(args)
        if len(steps) == 6:  # in the middle of an epoch
            raise KeyboardInterrupt
        return train_step(*args)

    monkeypatch.setattr(trainer, "train_step", step_or_stop)
    with pytest.raises(KeyboardInterrupt):
        run(data, plan, tmp_path / "stopped", *settings, kept)
    monkeypatch.setattr(trainer, "train_step", train_step)
    run(data, plan, tmp_path / "stopped", *settings, kept)
    whole, resumed = (read_member(tmp_path / name).record for name in ("whole", "stopped"))
    assert resumed.resumed_at
    assert resumed.weights == whole.weights


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's compiler
@pytest.mark.parametrize(
    ("step", "compiled"),
    [
        pytest.param(2, False, id="in the smaller phase"),
        pytest.param(4, False, id="at its end"),
        pytest.param(5, False, id="in the next"),
        pytest.param(5, True, id="compiled", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_changes_its_size_resumes_to_the_same_bits(
    data: Path, plan: Path, tmp_path: Path, step: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (HALF_FIRST, "epochs=3", "augmentation=[{kind: affine}]", "ema=0.9", "checkpoint.every_steps=1")
    settings += (f"compute.compile={str(compiled).lower()}",)
    run(data, plan, tmp_path / "whole", *settings)
    if compiled:
        torch.compiler.reset()  # as a new process begins
    done = []

    def step_or_stop(*args) -> torch.Tensor:
        if len(done) == step:
            raise KeyboardInterrupt
        done.append(args)
        return train_step(*args)

    monkeypatch.setattr(trainer, "train_step", step_or_stop)
    with pytest.raises(KeyboardInterrupt):
        run(data, plan, tmp_path / "stopped", *settings)
    if compiled:
        torch.compiler.reset()
    monkeypatch.setattr(trainer, "train_step", train_step)
    run(data, plan, tmp_path / "stopped", *settings)
    whole, resumed = (read_member(tmp_path / name).record for name in ("whole", "stopped"))
    assert resumed.resumed_at
    assert resumed.weights == whole.weights
