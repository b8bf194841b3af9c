"""The history of registered models, kept in the registry itself.

Entry n of a model's history is version n of a companion model, `NAME.history`. MLflow's aliases and tags are
last-writer-wins, but the server makes each version's number unique, and creates a version with its tags in one
transaction: that orders the entries. Aliases, tags and descriptions only mirror the history, and each command that
writes to it puts them right.
"""

import re
import secrets
from collections.abc import Callable
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from backdrop.common.errors import GateError, TrackingError, shorten
from backdrop.common.owner import actor
from backdrop.common.progress import log
from backdrop.common.retry import RetryPolicy
from backdrop.common.storage import sha256
from backdrop.common.words import now
from backdrop.tracking.client import connect, has_store, is_missing, missing, pages, retry, server_errors
from backdrop.tracking.ledger import BEGINNING, Chain, Entry, Line, State, chain
from backdrop.tracking.model_card import Facts, model_card, plain, version_card
from backdrop.tracking.webhook import send_decision

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)
SUFFIX = ".history"
# MLflow allows more characters, but these need no quoting in its filters and addresses.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SOURCE = "backdrop://history"  # with the name; MLflow requires a source, but nothing is stored there
ENTRY, DIGEST = "backdrop.entry", "backdrop.entry_digest"
ANCHOR = "backdrop.history"  # the last entry's digest, on the model itself, so that a shortened history is found
SINCE, HELD = "backdrop.champion_since", "backdrop.held"
PAGE = 1000  # entries for each request
OUTCOME = "outcome"  # a version's tag, which MLflow's list can filter by
POLICY = RetryPolicy(pause_s=0.2, max_pause_s=10.0, give_up_s=600.0, jitter=True)


def read(name: str) -> Chain:
    """A model's history; empty if there is no such model.

    Raises:
        TrackingError: if it was changed or shortened, or the server doesn't answer.
    """
    return _sound(name, examine(name))


def examine(name: str) -> Chain:
    """As `read`, but what was changed is among the chain's faults.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    if not has_store():
        return Chain()
    client = connect()
    with server_errors(f"The history of {name} can't be read"):
        return _read(client, name)


def record(name: str, propose: Callable[[State], Entry | None]) -> State:
    """Adds an entry that directly follows the state it was made for, and mirrors the state in MLflow.

    If another entry comes first, `propose` is called again with the new state. Killed at any point, either the entry is
    there or it isn't; the next call mirrors it. The webhook hears of a decision once it is mirrored.

    Args:
        name: of the registered model.
        propose: makes the entry from the state, None if nothing is to be added; it raises an error of ours if the state
            isn't the one that its caller decided on.

    Returns:
        The state right after the entry, whatever came later.

    Raises:
        TrackingError: if the history was changed by others than Backdrop, or the server is away for ten minutes.
        BackdropError: what `propose` raises.
    """
    client, tokens = connect(), set[str]()

    def attempt() -> tuple[State, Entry | None]:
        while True:
            known = _sound(name, _read(client, name))
            if own := known.upto(tokens):
                return own.state, own.links[-1].entry
            entry = propose(known.state)
            if entry is None:
                return known.state, None
            tokens.add(token := secrets.token_hex(8))
            stamp = {"actor": actor(), "time": now()}
            _append(client, name, entry.model_copy(update={**stamp, "token": token, "previous": known.head}))

    state, added = retry(f"The history of {name} can't be written", attempt, POLICY)
    mirror(name)
    if added:
        send_decision(name, added)
    return state


def decide(name: str, make: Callable[[State], Entry | None]) -> State:
    """Records what a person decides, unless the champion changes meanwhile.

    Args:
        name: of the registered model.
        make: makes the entry from the state, None if nothing is to be done.

    Raises:
        GateError: if somebody else changed the champion first.
        TrackingError: if there is no such model, or as `record`.
    """
    require_model(name)
    seen = list[int | None]()

    def propose(state: State) -> Entry | None:
        seen.append(state.champion)
        if state.champion != seen[0]:
            raise overtaken(name, state)
        return make(state)

    return record(name, propose)


def require_model(name: str) -> None:
    """Raises a TrackingError if there is no such model, or the server doesn't answer."""
    if not has_store():
        raise missing(f"model {name}")
    client = connect()
    with server_errors(f"Model {name} can't be read"):
        if find_model(client, name) is None:
            raise missing(f"model {name}")


def overtaken(name: str, state: State) -> GateError:
    """The error of whoever came second, which names who came first."""
    last = state.changes[-1]
    what = f"{last.actor} has made models:/{name}/{last.version} the champion meanwhile ({last.event} at {last.time})"
    return GateError(what, "Look at `backdrop history`, and run the command again if you still want it")


def mirror(name: str) -> State:
    """Makes MLflow's aliases and tags of a model say what its history says.

    Raises:
        TrackingError: as `record`.
    """
    client = connect()

    def attempt() -> State:
        while True:
            known = _sound(name, _read(client, name))
            model = find_model(client, name)
            if model is None or not _mirror(client, model, known):
                return known.state

    return retry(f"The aliases of {name} can't be set", attempt, POLICY)


def create_model(client: MlflowClient, name: str, **options: Any) -> None:
    """Creates a registered model, unless it exists."""
    try:
        client.create_registered_model(name, **options)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _read(client: MlflowClient, name: str) -> Chain:
    # The anchor is read first: entries that come later can't be missing then.
    model = find_model(client, name)
    anchor = model.tags.get(ANCHOR, BEGINNING) if model else BEGINNING
    # MLflow lists the newest first by default: an entry that comes between two pages would move the others.
    search = {"max_results": PAGE, "order_by": ["version_number ASC"]}
    versions = pages(client.search_model_versions, f"name = '{name}{SUFFIX}'", **search)
    return chain((Line(int(one.version), one.tags.get(ENTRY), one.tags.get(DIGEST)) for one in versions), anchor)


def checked_name(name: str) -> str:
    """The name of a model of ours, existing or not.

    Raises:
        TrackingError: if it can't be one.
    """
    if name.startswith("models:/"):
        raise TrackingError(f"{name} is an address, not a model's name", "Write only the name, such as products")
    if not NAME.fullmatch(name) or name.endswith(SUFFIX):
        remedy = f"Use letters, digits, dots, dashes and underscores, and another ending than {SUFFIX}"
        raise TrackingError(f"{name!r} isn't a valid model name", remedy)
    return name


def find_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """A registered model; None if there is none."""
    try:
        return client.get_registered_model(checked_name(name))
    except MlflowException as error:
        if is_missing(error):
            return None
        raise


def _sound(name: str, known: Chain) -> Chain:
    if known.faults:
        what = f"The history of {name} isn't what was written: {known.faults[0]}"
        raise TrackingError(what, "Restore MLflow's database from a backup")
    return known


def _append(client: MlflowClient, name: str, entry: Entry) -> None:
    book = f"{name}{SUFFIX}"
    text = entry.model_dump_json()
    if entry.previous == BEGINNING:
        about = f"The history of {name}: each version is an entry. Don't change or delete any."
        create_model(client, book, description=about)
    tags = {ENTRY: text, DIGEST: sha256(text.encode())}
    client.create_model_version(book, f"{SOURCE}/{name}", tags=tags, description=_sentence(entry), await_creation_for=0)


def _sentence(entry: Entry) -> str:
    """An entry in a sentence, in Markdown."""
    reason = f": {plain(entry.reason)}" if entry.reason else ""
    return f"Version {entry.version} **{entry.event}** by {plain(entry.actor)} at {entry.time[:19]}Z{reason}"


def _mirror(client: MlflowClient, model: RegisteredModel, known: Chain) -> bool:
    """Corrects what differs from the history; whether anything did."""
    state, name = known.state, model.name
    due = {CHAMPION: state.champion, CHALLENGER: state.challenger, PREVIOUS: state.previous}
    changed = False
    for alias, number in due.items():
        shown = model.aliases.get(alias)
        if number is None and shown is not None and known.links:
            client.delete_registered_model_alias(name, alias)
            changed = True
        elif number is not None and str(shown) != str(number):  # a server's are text
            changed = _point(client, name, alias, number) or changed
    tags = {
        ANCHOR: known.head,
        SINCE: state.changes[-1].time if state.changes else "",
        HELD: shorten(f"since {state.hold.time} by {state.hold.actor}: {state.hold.reason}") if state.hold else "",
    }
    for key, value in tags.items():
        if model.tags.get(key, "") != value:
            client.set_registered_model_tag(name, key, value)
            changed = True
    return _describe(client, model, state) or changed


def _describe(client: MlflowClient, model: RegisteredModel, state: State) -> bool:
    """Writes the cards of a model and its versions, and the versions' outcomes, where they differ; whether any did."""
    found = pages(client.search_model_versions, f"name = '{model.name}'", max_results=1000)
    versions = {int(one.version): one for one in found if int(one.version) in state.outcomes}
    facts = {number: known for number, one in versions.items() if (known := Facts.read(one.tags))}
    changed = False
    for number, known in facts.items():
        changed = _describe_version(client, versions[number], known, state) or changed
    card = model_card(model.name, facts, state)
    if state.outcomes and model.description != card:
        client.update_registered_model(model.name, card)
        changed = True
    return changed


def _describe_version(client: MlflowClient, version: ModelVersion, facts: Facts, state: State) -> bool:
    name, number, changed = version.name, int(version.version), False
    card, outcome = version_card(name, number, facts, state), state.outcomes[number]
    try:
        if version.tags.get(OUTCOME) != outcome:
            client.set_model_version_tag(name, str(number), OUTCOME, outcome)
            changed = True
        if version.description != card:
            client.update_model_version(name, str(number), card)
            changed = True
    except MlflowException as error:
        if not is_missing(error):
            raise  # else it was deleted meanwhile
    return changed


def _point(client: MlflowClient, name: str, alias: str, number: int) -> bool:
    try:
        client.set_registered_model_alias(name, alias, str(number))
    except MlflowException as error:
        if not is_missing(error):
            raise
        log(f"models:/{name}/{number}, the {alias} of its history, was deleted")
        return False
    return True
