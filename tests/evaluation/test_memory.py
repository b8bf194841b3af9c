"""The memory that evaluating takes, measured by the kernel, for photographs of any size."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backdrop.config.folds import Rule
from backdrop.data.dataset import open_dataset, opened_pair
from backdrop.data.digests import content_digests
from backdrop.steps.split import split
from backdrop.steps.train import train
from tests.conftest import SMALL, draw_pair

# Evaluates, and prints the process's highest resident size in MB.
RUN = """
import sys
from pathlib import Path
from backdrop.steps.evaluate import evaluate
folder = Path(sys.argv[1])
evaluate(str(folder / "data"), str(folder / "plan.csv"), [str(folder / "0"), str(folder / "1")], str(folder / "report"))
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:")))
"""


def draw_equal(data: Path, objects: int, size: tuple[int, int]) -> None:
    """One photograph and its mask by many names: two views of each object."""
    draw_pair(data, "car00_01", 0, size)
    for stem in [f"car{index // 2:02d}_{index % 2 + 1:02d}" for index in range(1, 2 * objects)]:
        (data / "train" / f"{stem}.jpg").hardlink_to(data / "train" / "car00_01.jpg")
        (data / "train_masks" / f"{stem}_mask.png").hardlink_to(data / "train_masks" / "car00_01_mask.png")


def test_photographs_and_masks_that_wait_for_each_other_do_not_wait_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_equal(tmp_path, 8, (48, 64))
    monkeypatch.setenv("BACKDROP_MAX_PIXELS", str(48 * 64))  # only one at a time, and yet its mask too
    photos = list(open_dataset(tmp_path).photos.values())
    digests, inside = content_digests(photos), list[int]()

    def read(index: int) -> int:
        with opened_pair(photos[index], digests) as (image, mask):
            inside.append(index)
            assert image.shape[:2] == mask.shape
            assert len(inside) == 1
            inside.pop()
        return index

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(16), timeout=60)) == list(range(16))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the kernel isn't Linux")
@pytest.mark.parametrize("size", [(8000, 10000), (4000, 6000)], ids=["80 MP", "24 MP"])
def test_evaluating_keeps_to_what_the_docs_say(tmp_path: Path, size: tuple[int, int]) -> None:
    draw_equal(tmp_path / "data", 4, size)
    split(str(tmp_path / "data"), str(tmp_path / "plan.csv"), Rule(2, 0.3))
    for fold in (0, 1):
        train(str(tmp_path / "data"), str(tmp_path / "plan.csv"), "tiny", fold, str(tmp_path / str(fold)), SMALL)
    done = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2500
