"""Backdrop cuts products out of studio photographs, pixel-exactly and at full resolution.

The steps are functions of this package: `backdrop.train(…)` does what `backdrop train …` does. Each is loaded when you
first ask for it, so that importing the package takes no time.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backdrop.common.errors import BackdropError
    from backdrop.steps.check import check
    from backdrop.steps.describe import describe
    from backdrop.steps.distill import distill
    from backdrop.steps.drift import drift
    from backdrop.steps.estimate import estimate
    from backdrop.steps.evaluate import evaluate
    from backdrop.steps.history import history
    from backdrop.steps.hold import hold
    from backdrop.steps.import_ import import_photos
    from backdrop.steps.label import label
    from backdrop.steps.merge import merge
    from backdrop.steps.next import next  # noqa: A004  # the command's name
    from backdrop.steps.plan import plan
    from backdrop.steps.predict import predict
    from backdrop.steps.promote import promote
    from backdrop.steps.reap import reap
    from backdrop.steps.register import register
    from backdrop.steps.release import release
    from backdrop.steps.review import review
    from backdrop.steps.rollback import rollback
    from backdrop.steps.sample import sample
    from backdrop.steps.shard import shard
    from backdrop.steps.split import split
    from backdrop.steps.train import train
    from backdrop.steps.tune import tune
    from backdrop.steps.verify import verify

__all__ = [
    "BackdropError",
    "check",
    "describe",
    "distill",
    "drift",
    "estimate",
    "evaluate",
    "history",
    "hold",
    "import_photos",
    "label",
    "merge",
    "next",
    "plan",
    "predict",
    "promote",
    "reap",
    "register",
    "release",
    "review",
    "rollback",
    "sample",
    "shard",
    "split",
    "train",
    "tune",
    "verify",
]

__version__ = "0.1.0"

# Read when torch loads OpenMP, so it must be set before. Its threads otherwise wait for each other in busy loops, and
# where anything else runs on the machine, training on CPUs is slower (docs/benchmarks.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if not TYPE_CHECKING:  # mypy would take any name for one of ours

    def __getattr__(name: str) -> object:
        """A step, or the error that all of them raise (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        elsewhere = {"BackdropError": "backdrop.common.errors", "import_photos": "backdrop.steps.import_"}
        return getattr(import_module(elsewhere.get(name, f"backdrop.steps.{name}")), name)

    def __dir__() -> list[str]:
        """What is loaded, and what can be."""
        return sorted({*globals(), *__all__})
