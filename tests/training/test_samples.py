"""How photographs get to the network: decoded once, loaded by others, and who dies is named."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backdrop.common import storage
from backdrop.common.errors import ConfigError, DataError, StorageError, TrainingError
from backdrop.data import cache as decoded
from backdrop.data.cache import open_cache
from tests.conftest import SMALL, small_disk
from tests.training.test_fit import samples

FITS = ["input.fit=stretch", "input={size: 96x64, fit: pad}", "input={size: 96x64, fit: reflect, clahe: true}"]


def files() -> list[Path]:
    return sorted((storage.cache_folder() / "decoded").rglob("*.pixels"))


@pytest.mark.parametrize("fit", FITS)
def test_pixels_are_the_same_with_and_without_a_cache(data: Path, plan: Path, fit: str) -> None:
    each = [samples(data, plan, (*SMALL, fit, f"loading.cache={cache}")) for cache in ("none", "disk", "disk")]
    assert len(files()) == len(each[0])
    for batches in zip(*(one.stream(0, 0, torch.device("cpu")) for one in each), strict=True):
        first, *others = [step[0] for step in batches]
        for other in others:
            assert torch.equal(first.images, other.images)
            assert torch.equal(first.targets, other.targets)


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
def test_who_may_read_the_cache_is_as_the_umask_says(data: Path, plan: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        samples(data, plan, (*SMALL, "loading.cache=disk"))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in files()} == {0o666 & ~umask}


DEVICE = (*SMALL, "compute.augment=device")


@pytest.mark.parametrize("fit", FITS)
def test_samples_changed_on_the_device_are_the_same_wherever_they_are_kept(data: Path, plan: Path, fit: str) -> None:
    each = [samples(data, plan, (*DEVICE, fit, f"loading.cache={cache}")) for cache in ("none", "disk", "device")]
    on_host = samples(data, plan, (*SMALL, fit)).stream(0, 0, torch.device("cpu"))
    others = 0
    for *batches, changed_on_host in zip(
        *(one.stream(0, 0, torch.device("cpu")) for one in each), on_host, strict=True
    ):
        first, *same = [step[0] for step in batches]
        for other in same:
            assert torch.equal(first.images, other.images)
            assert torch.equal(first.targets, other.targets)
        others += not torch.equal(first.images, changed_on_host[0].images)
        assert first.images.shape == changed_on_host[0].images.shape
    assert others > 0


def test_a_stream_changed_on_the_device_can_be_taken_up_in_the_middle(data: Path, plan: Path) -> None:
    whole = list(samples(data, plan, DEVICE).stream(0, 0, torch.device("cpu")))
    rest = list(samples(data, plan, (*DEVICE, "loading.cache=device")).stream(1, 1, torch.device("cpu")))
    assert 0 < len(rest) < len(whole)
    for (one,), (other,) in zip(whole[-len(rest) :], rest, strict=True):
        assert torch.equal(one.images, other.images)


def test_what_the_device_holds_is_changed_there(data: Path, plan: Path) -> None:
    with pytest.raises(ConfigError, match=r"loading\.cache=device can't be used with augmentation on the host"):
        samples(data, plan, (*SMALL, "compute.augment=host", "loading.cache=device"))


def test_a_device_that_is_too_small_is_reported(data: Path, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("no")

    held = samples(data, plan, (*DEVICE, "loading.cache=device"))
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(TrainingError, match=f"The device's memory is too small for {len(held)} photographs at 64x32"):
        next(held.stream(0, 0, torch.device("cpu")))


def test_what_is_there_is_not_decoded_again(data: Path, plan: Path) -> None:
    samples(data, plan)
    before = {path: path.stat().st_mtime_ns for path in files()}
    torn, *_ = before
    torn.write_bytes(torn.read_bytes()[:-1])
    samples(data, plan)
    after = {path: path.stat().st_mtime_ns for path in files()}
    assert {path for path in before if after[path] != before[path]} == {torn}


def test_a_damaged_file_is_decoded_again(data: Path, plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pixel that changed, and a file that is another photograph's."""
    samples(data, plan)
    whole = {path: path.read_bytes() for path in files()}
    first, second, *_ = whole
    capsys.readouterr()
    for damage in (whole[first][:-40] + bytes([whole[first][-40] ^ 1]) + whole[first][-39:], whole[second]):
        first.write_bytes(damage)
        samples(data, plan)
        assert {path: path.read_bytes() for path in files()} == whole
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "changed" in line]
        assert re.fullmatch(rf"{first} \(\w+\) in the cache changed; decoding again", line)


def test_a_photograph_that_changed_is_another_file(data: Path, plan: Path) -> None:
    one = samples(data, plan)
    stem = one.photos[0].stem
    digests = {**one.decoded.digests, stem: ("0" * 64, one.decoded.digests[stem][1])}
    with pytest.raises(DataError, match="has changed since it was first read"):
        open_cache(one.photos, digests, one.recipe.input, "disk")


def test_little_room_means_no_cache_unless_it_was_asked_for(
    data: Path, plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decoded, "_free", lambda _: 1)
    assert samples(data, plan).decoded.folder is None
    assert "there is little room" in capsys.readouterr().err
    assert files() == []
    assert samples(data, plan, (*SMALL, "loading.cache=disk")).decoded.folder is not None
    assert samples(data, plan).decoded.folder is not None  # nothing is missing any more


def test_a_full_disk_is_reported(
    data: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "full", "64k"):
        monkeypatch.setenv("BACKDROP_CACHE", str(tmp_path / "full"))
        (tmp_path / "full" / "ballast").write_bytes(bytes(50_000))
        with pytest.raises(StorageError, match="No space left on device"):
            samples(data, plan, (*SMALL, "loading.cache=disk"))
        monkeypatch.setattr(decoded, "_free", lambda _: 10**9)
        assert samples(data, plan).decoded.folder is None
        assert "Photographs are decoded again in each epoch: " in capsys.readouterr().err
        assert all(path.stat().st_size == 64 * 32 * 4 + 32 for path in files())  # none is written in part


def test_a_cache_that_cannot_be_written_is_not_needed(
    data: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("BACKDROP_CACHE", str(tmp_path / "file" / "cache"))
    assert samples(data, plan).decoded.folder is None
    assert "Photographs are decoded again in each epoch: " in capsys.readouterr().err
    with pytest.raises(StorageError, match=r"cache/decoded/.* can't be written"):
        samples(data, plan, (*SMALL, "loading.cache=disk"))


WORKERS = """
import os, signal, sys
from pathlib import Path
import cv2
import numpy as np
import torch
from backdrop.common.errors import TrainingError
cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 5)  # starts OpenCV's threads, as large photographs do
from tests.training.test_fit import samples
data, plan, number = sys.argv[1:]
SETTINGS = ("epochs=3", "input.size=64x32", "batch_size=1")
alone = samples(Path(data), Path(plan), SETTINGS)
helped = samples(Path(data), Path(plan), (*SETTINGS, "loading.workers=2"))
both = [one.stream(0, 0, torch.device("cpu")) for one in (alone, helped)]
for one, other in zip(*both, strict=True):
    assert torch.equal(one[0].images, other[0].images)
assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL, "torch's handler may stop the process for ever"
def die(self, photo):
    os.kill(os.getpid(), int(number))
    raise RuntimeError("no room")  # as of torch, if /dev/shm is small
type(helped.decoded).__call__ = die
try:
    next(helped.stream(0, 0, torch.device("cpu")))
except TrainingError as error:
    print(error)
"""


# Workers inside pytest, coverage and xdist die of themselves.
@pytest.mark.parametrize(
    ("number", "name", "said"),
    [
        pytest.param(7, "SIGBUS", "If /dev/shm is full, mount a larger one", marks=pytest.mark.thorough),
        (0, "RuntimeError: no room", "If /dev/shm is full, mount a larger one"),
        (9, "SIGKILL", "Give the process more memory, or set loading.workers=0"),
    ],
)
def test_workers_load_the_same_and_who_dies_is_named(data: Path, plan: Path, number: int, name: str, said: str) -> None:
    command = [sys.executable, "-c", WORKERS, str(data), str(plan), str(number)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=600
    )
    assert said in done.stdout
    assert f"A data loading worker died ({name}); /dev/shm has" in done.stdout
    assert "MiB free" in done.stdout


FULL = """
import os, sys
from pathlib import Path
import numpy as np
import torch
from backdrop.common.errors import TrainingError
from backdrop.training.loader import load
class Items(torch.utils.data.Dataset):
    def __getitem__(self, key):
        disk = os.statvfs("/dev/shm")
        filler = bytes((disk.f_bavail - 2) * disk.f_frsize)  # leaves room for the first two tensors
        Path("/dev/shm/filler").write_bytes(filler)
        return np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8), np.float32(1)
try:
    next(load(Items(), [[0]], 1, torch.device("cpu")))
except TrainingError as error:
    print(error)
"""


def test_a_batch_that_shared_memory_has_no_room_for_is_an_error_not_a_wait() -> None:
    mount = "mount -t tmpfs -o size=8m tmpfs /dev/shm"
    if subprocess.run(["sh", "-c", f"unshare --mount {mount}"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    command = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, FULL]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert "A data loading worker died (RuntimeError: unable to allocate shared memory" in done.stdout, done.stderr


def test_a_photograph_that_changes_meanwhile_is_named(data: Path, plan: Path) -> None:
    code = f"""
from pathlib import Path
import torch
from backdrop.common.errors import DataError
from tests.training.test_fit import samples
from tests.conftest import SMALL
data = Path({str(data)!r})
settings = [(*SMALL, "loading.cache=none", f"loading.workers={{workers}}") for workers in (0, 1)]
loaded = [samples(data, Path({str(plan)!r}), one) for one in settings]
for path in (data / "train").iterdir():
    path.write_bytes(b"else")
for one in loaded:
    try:
        next(one.stream(0, 0, torch.device("cpu")))
    except DataError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.count("has changed since it was first read. Run the step again.") == 2, done.stderr
