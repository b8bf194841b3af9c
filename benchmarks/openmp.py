"""Times training steps of `tiny` on two threads with both wait policies of OpenMP, alone and beside a busy process.

    .venv/bin/python benchmarks/openmp.py

Prints the median step of each, and how much slower the active wait is.
"""

import os
import subprocess
import sys
from statistics import median

STEPS = 30
STEP = """
import time
import torch
from backdrop.training.losses import make_loss
from backdrop.models import build
from backdrop.training.step import Batch, make_optimizer, set_lr, train_step

torch.set_num_threads(2)
network = build("unet", width=8, depth=4).to(memory_format=torch.channels_last)
optimizer = make_optimizer(network, "adamw", 0.0, 0.9)
set_lr(optimizer, 1e-3)
images, targets = torch.rand(4, 3, 128, 192), torch.ones(4, 1, 128, 192)
for _ in range(STEPS):
    start = time.perf_counter()
    train_step(network, optimizer, make_loss("bce_dice"), [Batch(images, targets)], 1.0)
    print(time.perf_counter() - start)
"""


def step_s(policy: str) -> float:
    """Median seconds of a step."""
    code = STEP.replace("STEPS", str(STEPS))
    environment = os.environ | {"OMP_WAIT_POLICY": policy}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return median(map(float, done.stdout.split()))


def main() -> None:
    """Measures both policies in turn, first alone, then beside a busy process."""
    for beside in (0, 1):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(beside)]
        try:
            active, passive = step_s("ACTIVE"), step_s("PASSIVE")
        finally:
            for process in busy:
                process.kill()
                process.wait()
        where = "beside a busy process" if beside else "alone"
        print(f"{where}: active {active:.3f} s, passive {passive:.3f} s, ratio {active / passive:.2f}")


if __name__ == "__main__":
    main()
