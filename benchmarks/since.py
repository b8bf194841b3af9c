"""CPU time of predicting, judging, evaluating and checking: this tree against an earlier commit's.

git worktree add OLD dd7494c
BACKDROP_CARVANA=FOLDER .venv/bin/python benchmarks/since.py OLD WORK    WORK keeps members for the next run

Both trees run in this environment, one after the other, three rounds, on the real cars at 1918x1280. Each trains three
members of `tiny` for a few epochs. CPU seconds count a command's start, but not its training.
"""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

ROUNDS, FOLDS, EPOCHS = 3, 3, 4
NEW = Path(__file__).resolve().parents[1]
# Judges a fold as training does after each epoch, and prints the CPU seconds of the second time.
JUDGE = """
import sys, time
from pathlib import Path
{imports}
data, plan, member = sys.argv[1:]
dataset, plan, member = open_dataset(data), read_plan(plan), read_member(Path(member))
left = LeftOut(dataset, plan.validation(0), verify(plan, dataset), member.recipe)
network = member.network()
left.dices(network)
start = time.process_time()
left.dices(network)
print(time.process_time() - start)
"""
IMPORTS = {
    "before": """
from backdrop.dataset import open_dataset
from backdrop.folds import read_plan, verify
from backdrop.training.fold import LeftOut
from backdrop.training.member import read_member
""",
    "now": """
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import read_plan, verify
from backdrop.inference.member import read_member
from backdrop.training.judging import LeftOut
""",
}
RATE = {"before": "rate", "now": "lr"}


class Tree:
    """One of the two, with what it has trained."""

    def __init__(self, name: str, root: Path, data: Path, work: Path) -> None:
        self.name, self.data, self.work = name, data, work / name
        path = f"{root / 'src'}{os.pathsep}{root}"
        self.environment = {**os.environ, "PYTHONPATH": path, "BACKDROP_TRACKING": "off"}
        self.members = [self.work / f"tiny-{fold}" for fold in range(FOLDS)]

    def train(self) -> None:
        """Trains what isn't trained yet."""
        self.work.mkdir(parents=True, exist_ok=True)
        plan = self.work / "plan.csv"
        if not plan.exists():
            self.command("split", self.data, "--folds", FOLDS, "--holdout", 0.2, "--out", plan)
        schedule = f"schedule=[{{kind: constant, epochs: {EPOCHS}, {RATE[self.name]}: 3e-3}}]"
        for fold, member in enumerate(self.members):
            settings = [f"--set=epochs={EPOCHS}", f"--set={schedule}"]
            given = ["--plan", plan, "--recipe", "tiny", "--fold", fold, "--out", member]
            self.command("train", self.data, *given, *settings)

    def seconds(self, work: str, number: int) -> float:
        """CPU seconds of one of the four."""
        out, plan = self.work / f"{work}-{number}", self.work / "plan.csv"
        if work == "predict":
            return self.command(work, self.data / "train", "--members", *self.members, "--format", "rle", "--out", out)
        if work == "evaluate":
            return self.command(work, self.data, "--plan", plan, "--members", *self.members, "--out", out)
        if work == "check":
            return self.command(work, self.data)
        code = JUDGE.format(imports=IMPORTS[self.name])
        command = [sys.executable, "-c", code, str(self.data), str(plan), str(self.members[0])]
        return float(subprocess.run(command, check=True, env=self.environment, stdout=subprocess.PIPE).stdout)

    def command(self, *words: object) -> float:
        """Runs a command, and returns its CPU seconds, those of its children among them."""
        line = [sys.executable, "-c", "from backdrop.cli import main; main()", *map(str, words)]
        if self.name == "now":
            line[1:3] = ["-m", "backdrop"]
        with subprocess.Popen(line, env=self.environment, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{self.name}: {' '.join(line)} ended with {process.returncode}")
        return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Prints each tree's CPU seconds, the medians of three rounds, and their ratio."""
    data = Path(os.environ["BACKDROP_CARVANA"], "full").resolve()
    work = Path(sys.argv[2]).resolve()
    trees = [Tree("before", Path(sys.argv[1]).resolve(), data, work), Tree("now", NEW, data, work)]
    for tree in trees:
        tree.train()
    print("| | before | now | ratio |\n| --- | --- | --- | --- |")
    for what in ("check", "judge", "predict", "evaluate"):
        found = [[tree.seconds(what, number) for tree in trees] for number in range(ROUNDS)]
        before, now = (median(seconds) for seconds in zip(*found, strict=True))
        print(f"| {what} | {before:.1f} | {now:.1f} | {before / now:.1f} |", flush=True)


if __name__ == "__main__":
    main()
