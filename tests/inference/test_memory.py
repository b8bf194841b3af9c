"""The memory that predicting takes, measured by the kernel, for photographs of any number and size."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from backdrop.config import find_recipe
from tests.tracking.workspace import write_member

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the kernel isn't Linux")

# Predicts, and prints the process's highest resident size in MB before and after.
RUN = """
import sys
from pathlib import Path
import torch
from backdrop.data.photographs import Source
from backdrop.inference import batch, ensemble
from backdrop.inference.compose import Pictures
from backdrop.inference.ensemble import gather
from backdrop.inference.member import read_member
scale, member, photos = int(sys.argv[1]), Path(sys.argv[2]), [
    Source(path, path.name) for path in sorted(Path(sys.argv[3]).iterdir())
]
batch.PIXELS, batch.LARGE, ensemble.BLOCK = (value // scale for value in (batch.PIXELS, batch.LARGE, ensemble.BLOCK))
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage counts the parent process before a fork too
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))
model = gather([read_member(member)], None)
store = batch.PredictionStore(Path(sys.argv[3] + ".store"), Pictures() if sys.argv[4] == "cutout" else None)
list(store.cut_out(model, photos[:1]))  # small: what it needs is libraries and the network
before = peak()
count = sum(not one.failure for one in store.cut_out(model, photos[1:]))
print(count, before, peak())
"""

# Reads a photograph and a network with ever more memory, and prints what is said where it isn't enough.
STARVED = """
import resource, sys
from pathlib import Path
import torch
from backdrop.common.errors import explain
from backdrop.data.dataset import opened_image
from backdrop.inference.member import read_member
photo, member = map(Path, sys.argv[1:])
def image():
    with opened_image(photo) as pixels:
        return pixels.sum()
for read in (image, read_member(member).network):
    read()  # what is left to import
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    for megabytes in range(0, 100, 5):
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 2**20, -1))
        try:
            read()
            said = ""
        except Exception as error:
            said = str(explain(error, "Report it"))
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        print(said)
"""

# Frees what many threads have allocated at the same time, and prints glibc's list of heaps.
HEAPS = """
import ctypes, threading
from backdrop.common.threads import in_threads
meeting = threading.Barrier(5)  # ThreadPoolExecutor has at least five threads
def work(_):
    meeting.wait()
    return bytearray(10_000)
in_threads(work, range(5))
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
"""


def peak_mb(tmp_path: Path, sizes: list[tuple[int, int]], scale: int = 1, kind: str = "mask") -> tuple[int, int]:
    """The highest resident size in MB, before photographs of these heights and widths in thousands and after."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, (height, width) in enumerate([(1, 1), *sizes]):
        image = np.full((height * 100, width * 100, 3), 200, np.uint8)
        image[height * 30 : height * 70, width * 30 : width * 70] = 60
        cv2.imwrite(str(photos / f"{index:03d}_01.jpg"), image)
    recipe = find_recipe("tiny", ["network.width=4", "network.depth=2", "input.size=128x128"])
    member = write_member(tmp_path / "member", recipe, "c" * 64, 0)
    command = [sys.executable, "-c", RUN, str(scale), str(member), str(photos), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, before, after = map(int, done.stdout.split())
    assert count == len(sizes)
    return before, after


def test_many_photographs_take_no_more_memory_than_a_few(tmp_path: Path) -> None:
    before, after = peak_mb(tmp_path, [(15, 20)] * 12 + [(40, 50)], scale=16)  # the sums of all would take 448 MB
    assert after - before < 220


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [[(100, 120)], [(150, 200)], [(15, 22)] * 40, [(40, 50)] * 10, [(50, 80)] * 4, [(80, 100)] * 4],
    ids=["one of 120 MP", "one of 300 MP", "40 of 3.3 MP", "10 of 20 MP", "4 of 40 MP", "4 of 80 MP"],
)
def test_memory_keeps_to_what_the_docs_say(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    _, after = peak_mb(tmp_path, sizes)
    largest = max(height * width / 100 for height, width in sizes)
    assert after < 1500 + 6 * max(0, largest - 100)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[(80, 100)], [(15, 22)] * 40], ids=["one of 80 MP", "40 of 3.3 MP"])
def test_cut_outs_keep_to_what_the_docs_say(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    _, after = peak_mb(tmp_path, sizes, kind="cutout")
    largest = max(height * width / 100 for height, width in sizes)
    assert after < 1500 + (24 * largest if largest > 50 else 0)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives threads heaps of their own")
def test_threads_share_heaps_unless_the_environment_says_otherwise() -> None:
    for limit, heaps in (None, {1, 2}), ("64", {5, 6}):
        variables = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
        variables |= {"MALLOC_ARENA_MAX": limit} if limit else {}
        done = subprocess.run([sys.executable, "-c", HEAPS], capture_output=True, text=True, check=True, env=variables)
        assert done.stdout.count("<heap nr=") in heaps


def test_what_lacks_only_memory_is_not_called_damaged(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "car_01.png"), np.zeros((4000, 4000, 3), np.uint8))
    member = write_member(tmp_path / "member", find_recipe("tiny"), "c" * 64, 0)
    command = [sys.executable, "-c", STARVED, str(tmp_path / "car_01.png"), str(member)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 40
    for part in lines[:20], lines[20:]:
        starved = [line for line in part if line]
        assert starved
        assert not [line for line in starved if not line.startswith("There isn't enough memory")]
