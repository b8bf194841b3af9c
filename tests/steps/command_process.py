"""Commands in processes of their own that take no time to start: a server that has imported all they need forks them.

A forked process imports the module of the function that it runs: this one imports nothing that takes long.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
STEPS = ("train", "evaluate", "label", "predict", "sample", "import_", "split")
# What torch imports when it trains or counts operations, and what a member's pictures need.
LATE = ("torch._dynamo", "torch.fx.experimental.symbolic_shapes", "matplotlib.backends.backend_agg")
SERVER.set_forkserver_preload(
    [
        *(f"backdrop.steps.{name}" for name in STEPS),
        *("backdrop.cli.app", "backdrop.training.fit", "backdrop.pipelines.package", "boto3", *LATE),
    ]
)


def start(words: list[str], log: Path) -> BaseProcess:
    """Starts `backdrop` with this process's environment; what it prints is in the log."""
    process = SERVER.Process(target=_run, args=(words, dict(os.environ), str(log)))
    process.start()
    return process


def _run(words: list[str], environment: Mapping[str, str], log: str) -> None:
    """A command as if a shell had started it."""
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["backdrop", *words]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    from backdrop.cli.app import main

    main()
