"""Backdrop cuts products out of studio photographs, pixel-exactly and at full resolution."""

import os

__version__ = "0.1.0"

# Read when torch loads OpenMP, so it must be set before. Its threads otherwise wait for each other in busy loops, and
# where anything else runs on the machine, training on CPUs is slower (docs/benchmarks.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
