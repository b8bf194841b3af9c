"""What MLflow's pages say about a model and its versions, in Markdown: the card of a model and that of each version.

A card follows from the model's history and from what its evaluation found. MLflow's page drops what could run a script,
and also `data:` addresses, so pictures are artifacts, by their address on the server that shows the page.
"""

import re
from collections.abc import Mapping
from html import escape
from typing import Self
from urllib.parse import urlencode

from backdrop import __version__
from backdrop.common.words import count, moment
from backdrop.config.records import Record, parse, parse_yaml
from backdrop.data.pseudo_labels import Teacher
from backdrop.evaluation.records import WORST
from backdrop.tracking.ledger import Entry, State

FACTS = "backdrop.card"
DICE, DATA, VERSION = "dice", "data", "backdrop"
LONGEST = 5000  # characters of a description, in MLflow's tables
TEXT = 600  # of somebody's words, so that the rest has room
SPECIAL = re.compile(r"([\\`*_\[\]#|~!])")


class Facts(Record):
    """What a version's card says about its ensemble and its evaluation.

    Attributes:
        ensemble: the ensemble's name.
        description: the ensemble's own.
        license: of the model, in the ensemble's words; empty if it names none.
        members: the number of its networks.
        data: the digest of the data in its plan.
        objects: of all folds and the holdout, `photographs` likewise.
        holdout_objects: of the holdout, `holdout_photographs` likewise.
        dice: on the holdout, 0..1, with its 95 % interval `low` to `high`; None where the evaluation has none.
        worst: the photographs in the picture of the worst, by name, with their Dice.
        data_license: of the dataset, in its own words; empty if it names none.
        early_exit: what an early exit does, saves and costs; empty without one.
        evaluation: the id of the evaluation's run; empty before there is one.
        teacher: the version that taught it, of a student.
    """

    ensemble: str
    description: str
    license: str
    members: int
    data: str
    objects: int
    photographs: int
    holdout_objects: int
    holdout_photographs: int
    dice: float | None
    low: float | None
    high: float | None
    worst: dict[str, float]
    data_license: str = ""
    early_exit: str = ""
    evaluation: str = ""
    teacher: Teacher | None = None

    @classmethod
    def read(cls, tags: Mapping[str, str]) -> Self | None:
        """The facts in a version's tags; None if it has none.

        Raises:
            ConfigError: if somebody has changed the tag.
        """
        return parse(cls, parse_yaml(tags[FACTS], FACTS), f"Tag {FACTS}") if FACTS in tags else None

    def tags(self) -> dict[str, str]:
        """The version's tags: those that MLflow's list can filter and sort by, and all facts as JSON."""
        dice = {DICE: f"{self.dice:.5f}"} if self.dice is not None else {}
        taught = {"teacher": self.teacher.address, "teacher_digest": self.teacher.digest} if self.teacher else {}
        return {**dice, DATA: self.data, VERSION: __version__, FACTS: self.model_dump_json(), **taught}


def version_card(name: str, version: int, facts: Facts, state: State) -> str:
    """The description of a version: what it is, what became of it and why, how good it is, and how to use it.

    Args:
        name: of the registered model.
        version: its number.
        facts: the version's.
        state: the model's, after all entries of its history.
    """
    parts = [
        _status(version, state),
        _hold(name, state) if version == state.champion else "",
        plain(facts.description),
        _verdict(version, state),
        evaluation_card(facts),
        _usage(f"models:/{name}/{version}"),
    ]
    return _joined(parts)


def evaluation_card(facts: Facts) -> str:
    """The description of an evaluation's run, which is also a part of a version's card: the figures and worst cases."""
    rows = {
        "Dice on the holdout": _dice(facts),
        "Holdout": f"{_amount(facts.holdout_objects, facts.holdout_photographs)}, on which no member trained",
        "Ensemble": f"{plain(facts.ensemble)}, {count(facts.members, 'member')}",
        "Early exit": plain(facts.early_exit),
        "Taught by": facts.teacher.address if facts.teacher else "",
        "Data": f"{_amount(facts.objects, facts.photographs)}, {facts.data}",
        "License": plain(facts.license),
        "License of the data": plain(facts.data_license),
    }
    table = "".join(f"| {title} | {text} |\n" for title, text in rows.items() if text)
    address = f"get-artifact?{urlencode({'path': f'report/{WORST}', 'run_uuid': facts.evaluation}, safe='/')}"
    worst = ", ".join(f"{plain(image)} {dice:.5f}" for image, dice in facts.worst.items())
    return f"| | |\n| --- | --- |\n{table}\n### Worst cases\n\n![Worst cases]({address})\n\n{worst}"


def model_card(name: str, facts: Mapping[int, Facts], state: State) -> str:
    """The description of a registered model: what is in use, since when, why, and how good it is.

    Args:
        name: of the registered model.
        facts: of its versions that have some, by number.
        state: the model's, after all entries of its history.
    """
    known = facts.get(state.champion or 0)
    parts = [
        _in_use(state),
        f"Dice {_dice(known)} on {count(known.holdout_objects, 'object')}." if known else "",
        _hold(name, state),
        _challenger(state),
        _usage(f"models:/{name}@champion") if state.champion else "",
        f"`backdrop history {name}` shows who decided what, when and why.",
    ]
    return _joined(parts)


def plain(text: str) -> str:
    """Somebody's words as Markdown that shows them as they are, in one line of at most 600 characters."""
    words = " ".join(text.split())
    return SPECIAL.sub(r"\\\1", escape(words if len(words) <= TEXT else f"{words[: TEXT - 1]}…", quote=False))


def _joined(parts: list[str]) -> str:
    text = "\n\n".join(part for part in parts if part)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _status(version: int, state: State) -> str:
    outcome, entry = state.outcomes[version], state.decided[version]
    if outcome == "promoted":
        return f"In use since {moment(entry.time)}. {_why(entry)}"
    if outcome == "registered":
        return f"Not judged yet; registered {moment(entry.time)} by {plain(entry.actor)}."
    by = f" by version {entry.version}" if outcome == "replaced" else ""
    return f"{outcome.capitalize()}{by} on {moment(entry.time)}. {_why(entry)}"


def _in_use(state: State) -> str:
    if state.champion is None:
        return "**No version is in use yet.**"
    entry = state.decided[state.champion]
    return f"**Version {state.champion} is in use** since {moment(entry.time)}. {_why(entry)}"


def _challenger(state: State) -> str:
    if state.challenger is None:
        return ""
    outcome = state.outcomes[state.challenger]
    return f"Version {state.challenger} is the challenger ({'not judged yet' if outcome == 'registered' else outcome})."


def _why(entry: Entry) -> str:
    """What was decided by whom, and why in a few words."""
    by = "the gate" if entry.verdict else plain(entry.actor)
    reason = f": {plain(entry.reason)}" if entry.reason else ""
    return f"{entry.event.capitalize()} by {by}{reason}."


def _verdict(version: int, state: State) -> str:
    """The gate's last verdict on a version, in a sentence."""
    made = [entry.verdict for entry in state.judged if entry.version == version]
    if not made or made[-1] is None:
        return ""
    reasons = " ".join(f"{plain(reason)}." for reason in made[-1].reasons[:2])
    return f"The gate's verdict: {made[-1].outcome}, {plain(made[-1].summary)}. {reasons}"


def _hold(name: str, state: State) -> str:
    if state.hold is None:
        return ""
    reason = f": {plain(state.hold.reason)}" if state.hold.reason else ""
    since = f"**Held** since {moment(state.hold.time)} by {plain(state.hold.actor)}{reason}."
    return f"{since} Only people replace it until `backdrop release {name}`."


def _dice(facts: Facts) -> str:
    if facts.dice is None:
        return "not known: there is no holdout"
    interval = "" if facts.low is None else f" (95 % interval {facts.low:.5f} to {facts.high:.5f})"
    return f"**{facts.dice:.5f}**{interval}"


def _amount(objects: int, photographs: int) -> str:
    return f"{count(objects, 'object')}, {count(photographs, 'photograph')}"


def _usage(address: str) -> str:
    return f"""### Use

```
backdrop predict photos --model {address} --out masks
```

or in Python, from the bytes of image files to those of PNG files:

```
import mlflow, pandas, pathlib
model = mlflow.pyfunc.load_model("{address}")
photo = pathlib.Path("photo.jpg").read_bytes()
mask = model.predict(pandas.DataFrame({{"image": [photo]}}))["mask"][0]
```"""
