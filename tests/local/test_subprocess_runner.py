"""Tasks in processes of this Python."""

import sys
from pathlib import Path

import pytest
from kfp import local

from backdrop.local.subprocess_runner import process_runner
from tests.local.test_logs import speak


@pytest.mark.parametrize("folder", ["my tools", "it's $HOME", "python3 -m"])
def test_any_folder_may_have_the_python_and_the_data(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / folder / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    local.init(process_runner(), pipeline_root=str(tmp_path / folder / "root"), raise_on_error=True)
    assert speak(word=str(python)).output == str(python)
