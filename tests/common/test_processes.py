"""The CPUs that a process may use."""

import os
from pathlib import Path

import pytest

from backdrop.common import processes
from backdrop.common.environment import environment
from backdrop.components import task

VERSION_2 = ("cpu.max",)
VERSION_1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        (dict(zip(VERSION_2, ["400000 100000\n"], strict=True)), 4),
        (dict(zip(VERSION_2, ["50000 100000\n"], strict=True)), 1),
        (dict(zip(VERSION_2, ["250000 100000\n"], strict=True)), 3),
        (dict(zip(VERSION_2, ["max 100000\n"], strict=True)), None),
        (dict(zip(VERSION_1, ["600000\n", "200000\n"], strict=True)), 3),
        (dict(zip(VERSION_1, ["-1\n", "100000\n"], strict=True)), None),
        ({}, None),
    ],
)
def test_a_containers_limit_is_known(
    files: dict[str, str], limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(processes, "CGROUP", tmp_path)
    own = len(os.sched_getaffinity(0))
    assert processes.cpu_limit() == limit
    assert processes.cpus() == min(own, limit or own)
    # A task starts no more threads than that, unless it is told otherwise.
    for told in (None, "7"):
        with environment(OMP_NUM_THREADS=told):
            task.limit_threads()
            assert os.environ.get("OMP_NUM_THREADS") == (told or (limit and str(limit)))


def test_without_an_affinity_all_cpus_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "CGROUP", tmp_path)
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert processes.cpus() == os.cpu_count()
