"""The report's section on what an ensemble was made from, with the commands that make it again."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from backdrop import __version__
from backdrop.common.storage import sha256
from backdrop.config.catalog import changes
from backdrop.config.folds import PLAN, Rule
from backdrop.data.folds import FoldPlan, dump_plan, follows
from backdrop.inference.member import Member
from backdrop.report.parts import table

NOTE = f"""<code>{PLAN}</code> and <code>ensemble.yaml</code> are files of the evaluation's run in MLflow, once the
ensemble is registered. On the same kind of machine, the same versions make the same members, bit by bit."""


@dataclass(frozen=True)
class Source:
    """A member: its address, the member itself, and its plan's place among the plans."""

    address: str
    member: Member
    plan: int


@dataclass(frozen=True)
class Lineage:
    """What an ensemble was made from.

    Attributes:
        data: the dataset's address.
        objects: how many objects it has that could be in the plans.
        plans: the fold plans, the ensemble's own first.
        rules: the fold schemes of the ensemble, in the plans' order; empty if unknown.
        members: the ensemble's, sorted by name.
        ensemble: its name if it is shipped, or `ensemble.yaml`; None if all members weigh the same.
        commit: of the checkout that it was evaluated in; empty without one.
    """

    data: str
    objects: int
    plans: Sequence[FoldPlan]
    rules: Sequence[Rule]
    members: Sequence[Source]
    ensemble: str | None
    commit: str

    def commands(self) -> list[str]:
        """The commands that make the ensemble again and evaluate it, in a shell's words; comments where one can't."""
        return [*self._splits(), *self._trainings(), self._command("evaluate", "report")]

    def review(self) -> str:
        """The command that shows all doubtful labels."""
        return self._command("review", "review")

    def _splits(self) -> Iterator[str]:
        for place, plan in enumerate(self.plans):
            words = _scheme(plan, self.plans[0] if place else None, self.rules[place : place + 1])
            if words is None:
                digest = sha256(dump_plan(plan))[:12]
                yield f"# {_file(place)} (sha256 {digest}…) follows from an older plan or another rule: keep the file"
                continue
            names = {row.object for row in plan.rows}
            part = ["--objects", str(len(names))] if len(names) < self.objects else []
            yield _shell("split", self.data, "--out", _file(place), *words, *part)

    def _trainings(self) -> Iterator[str]:
        groups: dict[str, list[Source]] = {}
        for source in self.members:
            groups.setdefault(source.member.record.recipe, []).append(source)
        for name, sources in groups.items():
            record = sources[0].member.record
            if record.teacher:
                yield f"# {name} was distilled from {record.teacher.address} by `backdrop distill`"
                continue
            if record.pseudo:
                yield f"# with --pseudo and the folder of `backdrop label`, whose digest is {record.pseudo[:12]}…"
            made = changes(sources[0].member.recipe)
            recipe = name if made is not None else f"{name}.yaml"
            if made is None:
                yield f"# {recipe} is recipe.yaml in {sources[0].address}"
            sets = [word for change in made or () for word in ("--set", change)]
            words = _shell("train", self.data, "--plan", _file(sources[0].plan), "--recipe", recipe, *sets)
            folds = " ".join(str(source.member.record.fold) for source in sources)
            yield f"for fold in {folds}; do {words} --fold $fold --out members/{shlex.quote(name)}-$fold; done"

    def _command(self, step: str, out: str) -> str:
        plans = [word for place in range(len(self.plans)) for word in ("--plan", _file(place))]
        members = [f"members/{source.member.name}" for source in self.members]
        weighed = ["--ensemble", self.ensemble] if self.ensemble else []
        return _shell(step, self.data, *plans, "--members", *members, *weighed, "--out", out)


def lineage_section(lineage: Lineage) -> str:
    """What the ensemble was made from, each member, and the commands."""
    digests = ", ".join(sha256(dump_plan(plan)) for plan in lineage.plans)
    trained = ", ".join(sorted({source.member.record.version for source in lineage.members}))
    facts = {
        "data": f"{lineage.data}, {lineage.plans[0].data}",
        "fold plan" if len(lineage.plans) == 1 else "fold plans": f"sha256 {digests}",
        "trained by": f"Backdrop {trained}",
        "evaluated by": f"Backdrop {__version__}" + (f", in a checkout of {lineage.commit}" if lineage.commit else ""),
    }
    rows = [
        [escape(one.member.name), f"<code>{one.member.record.key[:12]}</code>", f"<code>{escape(one.address)}</code>"]
        for one in lineage.members
    ]
    listed = "".join(f"<dt>{title}</dt><dd><code>{escape(text)}</code></dd>" for title, text in facts.items())
    commands = escape("\n".join(lineage.commands()))
    return (
        f'<section><h2>Lineage</h2><dl class="lineage">{listed}</dl>{table(("member", "content key", "from"), rows)}'
        f'<p class="note">{NOTE}</p><pre><code>{commands}</code></pre></section>'
    )


def _scheme(plan: FoldPlan, own: FoldPlan | None, rules: Sequence[Rule]) -> list[str] | None:
    """The options of `split` that make a plan; None if no rule alone does."""
    objects = plan.assignment()
    held = round(list(objects.values()).count(None) / len(objects), 4)
    for rule in (*rules, Rule(len(plan.folds), held)):
        if follows(plan, rule, own):
            share = ["--holdout-from", PLAN] if own else ["--holdout", f"{rule.holdout:g}"]
            words = ["--folds", str(rule.folds), *share]
            words += ["--by", rule.by] if rule.by != "area" else []
            words += ["--view", rule.view] if rule.view else []
            return words + (["--seed", str(rule.seed)] if rule.seed else [])
    return None


def _file(place: int) -> str:
    return PLAN if place == 0 else f"plan-{place + 1}.csv"


def _shell(*words: str) -> str:
    return shlex.join(["backdrop", *words])
