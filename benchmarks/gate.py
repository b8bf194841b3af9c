"""How often the gate promotes an equally good challenger in the life of a holdout, and a better one in time.

.venv/bin/python benchmarks/gate.py            what the gate does
.venv/bin/python benchmarks/gate.py --rules    beside other rules

A model's Dice on an object is simulated in units of its spread: the object's difficulty, which two models share, and
the model's own noise, which is larger on difficult objects. The functions that judge are those of the gate.
"""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from backdrop.evaluation.significance import ALPHA, adjusted_p, level, p_value

Floats = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, int]], Floats]
# The p of differences (lives, objects), and what it must stay below at a look, 1 or more.
Rule = tuple[Callable[[Floats], Floats], Callable[[int], float]]
GATE: Rule = (p_value, level)
LOOKS = 200

# The challengers' own noise, with mean 0 and variance 1.
NOISES: dict[str, Noise] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "heavy tails": lambda rng, size: rng.standard_t(5, size) * 0.6**0.5,
    "skewed to the left (2)": lambda rng, size: 1 - rng.exponential(size=size),
    "skewed to the left (2.8)": lambda rng, size: (0.5 - rng.standard_gamma(0.5, size)) * 2**0.5,
    "skewed to the left (6.2)": lambda rng, size: (np.exp(0.5) - rng.lognormal(0, 1, size)) / 2.1612,
}


def student_p(differences: Floats) -> Floats:
    """Student's one-sided p."""
    count = differences.shape[-1]
    t = differences.mean(-1) / differences.std(-1, ddof=1) * count**0.5
    return np.asarray(special.stdtr(count - 1, -t))


def e_value_p(differences: Floats) -> Floats:
    """One over an e-value: the Bayes factor of the t-test for a gain, with a normal prior."""
    count = differences.shape[-1]
    t = differences.mean(-1) / differences.std(-1, ddof=1) * count**0.5
    tails = (1 + t**2 / (count - 1)) / (1 + t**2 / (count - 1) / (1 + count))
    return np.asarray(np.where(t > 0, (1 + count) ** 0.5 / 2 / tails ** (count / 2), 1.0))


def obrien_fleming(look: int) -> float:
    """The part of ALPHA spent at a look of LOOKS, by Lan and DeMets' function like O'Brien and Fleming's bounds."""
    z = -special.ndtri(ALPHA / 2)
    spent = [2 * special.ndtr(-z / (number / LOOKS) ** 0.5) if number else 0.0 for number in (look - 1, look)]
    return float(spent[1] - spent[0])


RULES: dict[str, Rule] = {
    "the gate": GATE,
    "Student's t": (student_p, level),
    "Student's t and Hall's": (adjusted_p, level),
    "e-value of the t-test": (e_value_p, level),
    "the gate's p, one level for 200 looks": (p_value, lambda _: ALPHA / LOOKS),
    "the gate's p, O'Brien-Fleming over 200 looks": (p_value, obrien_fleming),
    "Student's t at 2.5 % at every look": (student_p, lambda _: 0.025),
}


def promotions(
    noise: Noise,
    objects: int,
    lives: int = 2000,
    looks: int = LOOKS,
    grows: bool = False,
    steady: bool = True,
    gain: float = 0.0,
    rule: Rule = GATE,
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
        rule: what promotes.
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
        promoted[look] = rule[0]((challenger - champion)[:, :size]) < rule[1](look + 1)
        champion = np.where(promoted[look][:, None], challenger, champion)
    return promoted


def share(promoted: NDArray[np.bool_]) -> str:
    """Lives with any promotion, in percent."""
    return f"{100 * promoted.any(0).mean():.1f} %"


def show_gate() -> None:
    """Equal and better challengers at the gate."""
    print("| noise | objects | equal, 200 looks | champion as noisy | better, 4 looks | champion as noisy |")
    for objects in (24, 12, 48):
        for name, noise in NOISES.items():
            equal = [share(promotions(noise, objects, steady=steady)) for steady in (True, False)]
            better = [share(promotions(noise, objects, looks=4, steady=steady, gain=3.5)) for steady in (True, False)]
            print(f"| {name} | {objects} | {' | '.join((*equal, *better))} |", flush=True)
    print("| noise | objects at first | equal, 200 looks, holdout grows |")
    for name, noise in NOISES.items():
        print(f"| {name} | 24 | {share(promotions(noise, 24, grows=True))} |", flush=True)
    print("| objects | better by 3.5, looks 52 to 55 | by 5 | by 6.5 | by 8 |")
    late = (p_value, lambda look: level(look + 51))
    for objects in (24, 48, 96):
        found = [promotions(NOISES["normal"], objects, looks=4, gain=gain, rule=late) for gain in (3.5, 5, 6.5, 8)]
        print(f"| {objects} | {' | '.join(map(share, found))} |", flush=True)


def show_rules() -> None:
    """The gate beside other rules, with 24 objects."""
    print("| rule | equal, normal | equal, skewed (2) | better, looks 1 to 4 | better, looks 52 to 55 |")
    for name, (p, asked) in RULES.items():
        late = (p, lambda look, asked=asked: asked(look + 51))
        equal = [
            share(promotions(NOISES[noise], 24, rule=(p, asked))) for noise in ("normal", "skewed to the left (2)")
        ]
        better = [share(promotions(NOISES["normal"], 24, looks=4, gain=3.5, rule=rule)) for rule in ((p, asked), late)]
        print(f"| {name} | {' | '.join((*equal, *better))} |", flush=True)


if __name__ == "__main__":
    show_rules() if "--rules" in sys.argv else show_gate()
