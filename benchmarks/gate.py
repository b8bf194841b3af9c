"""How often the gate promotes an equally good challenger in the life of a holdout, and a better one in time.

.venv/bin/python benchmarks/gate.py

A model's Dice on an object is simulated in units of its spread: the object's difficulty, which two models share, and
the model's own noise, which is larger on difficult objects. The functions that judge are those of the gate.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from backdrop.evaluation.significance import level, p_value

Floats = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, int]], Floats]

# The challengers' own noise, with mean 0 and variance 1.
NOISES: dict[str, Noise] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "heavy tails": lambda rng, size: rng.standard_t(5, size) * 0.6**0.5,
    "skewed to the left (2)": lambda rng, size: 1 - rng.exponential(size=size),
    "skewed to the left (2.8)": lambda rng, size: (0.5 - rng.standard_gamma(0.5, size)) * 2**0.5,
    "skewed to the left (6.2)": lambda rng, size: (np.exp(0.5) - rng.lognormal(0, 1, size)) / 2.1612,
}


def promotions(
    noise: Noise,
    objects: int,
    lives: int = 2000,
    looks: int = 200,
    grows: bool = False,
    steady: bool = True,
    gain: float = 0.0,
) -> NDArray[np.bool_]:
    """Which challengers are promoted, (looks, lives); each becomes the champion that the next must beat.

    Args:
        noise: the challengers' own.
        objects: in the holdout at the first look.
        lives: how many.
        looks: at each holdout.
        grows: by 0 to 2 objects at each look.
        steady: the champion has no noise of its own at first, so that differences are as skewed as the noise.
        gain: by how much challengers are better than the first champion, in standard errors of the first difference.
    """
    rng = np.random.default_rng(20170727)
    sizes = objects + np.cumsum(rng.integers(0, 3, looks) if grows else np.zeros(looks, int))
    shape = (lives, int(sizes[-1]))
    spread = np.exp(rng.normal(-0.0625, 0.25, shape))  # its mean square is 1
    champion = np.zeros(shape) if steady else noise(rng, shape) * spread
    better = gain * (1 if steady else 2**0.5) / objects**0.5
    promoted = np.zeros((looks, lives), bool)
    for look, size in enumerate(sizes):
        challenger = better + noise(rng, shape) * spread
        promoted[look] = p_value((challenger - champion)[:, :size]) < level(look + 1)
        champion = np.where(promoted[look][:, None], challenger, champion)
    return promoted


def share(
    name: str, objects: int, looks: int = 200, grows: bool = False, steady: bool = True, gain: float = 0.0
) -> str:
    """Lives with any promotion, in percent."""
    found = promotions(NOISES[name], objects, looks=looks, grows=grows, steady=steady, gain=gain)
    return f"{100 * found.any(0).mean():.1f} %"


def main() -> None:
    """Prints the tables of docs/benchmarks.md."""
    print("| noise | objects | equal, 200 looks | champion as noisy | better, 4 looks | champion as noisy |")
    for objects in (24, 12, 48):
        for name in NOISES:
            equal = [share(name, objects, steady=steady) for steady in (True, False)]
            better = [share(name, objects, looks=4, steady=steady, gain=3.5) for steady in (True, False)]
            print(f"| {name} | {objects} | {' | '.join((*equal, *better))} |", flush=True)
    print("| noise | objects at first | equal, 200 looks, holdout grows |")
    for name in NOISES:
        print(f"| {name} | 24 | {share(name, 24, grows=True)} |", flush=True)


if __name__ == "__main__":
    main()
