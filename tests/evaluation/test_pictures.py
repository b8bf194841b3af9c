"""Pictures are the same whatever a user has set for other programs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backdrop.evaluation.pictures import curves

HISTORY = [{"epoch": epoch, "loss": 1 / epoch, "dice": 1 - 0.1 / epoch, "lr": 1e-3} for epoch in (1, 2, 3)]


@pytest.mark.parametrize("backend", ["no_such_backend", "TkAgg", ""])
def test_settings_of_matplotlib_leave_the_curves_as_they_are(backend: str, tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("savefig.dpi: 30\nfigure.facecolor: black\nfont.size: 20\nbackend: TkAgg\n")
    code = (
        "import sys\n"
        "from backdrop.evaluation.pictures import curves\n"
        f"sys.stdout.buffer.write(curves({HISTORY!r}))\n"
        "import matplotlib\n"
        "assert matplotlib.rcParams['savefig.dpi'] == 30"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": backend},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == curves(HISTORY)


def test_matplotlib_says_nothing_where_its_list_of_fonts_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = f"from backdrop.evaluation.pictures import curves; curves({HISTORY!r})"
    own = {"HOME": f"{tmp_path}/file", "MPLCONFIGDIR": "", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | own, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
