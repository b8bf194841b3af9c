"""Whatever is changed in a version's files or its model's history is found."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from backdrop.cli.output import verification_text
from backdrop.common.errors import TrackingError
from backdrop.data.dataset import open_dataset
from backdrop.steps.hold import hold
from backdrop.steps.promote import promote
from backdrop.steps.verify import verify
from backdrop.tracking import history
from backdrop.tracking.client import connect
from backdrop.tracking.registry import find_number
from tests.tracking.workspace import Workspace, server_is_thorough

ARTIFACTS = Callable[[str], Path]


@pytest.fixture
def name(tracked: str, workspace: Workspace, tmp_path: Path) -> str:
    """A model with a champion that somebody holds."""
    name = f"model-{tmp_path.name}"
    workspace.register(name, 1, 0.95)
    promote(str(workspace.data), name)
    hold(name, "to be verified")
    return name


@pytest.fixture
def folder(name: str, artifacts: ARTIFACTS) -> Path:
    """Where MLflow keeps the version's files."""
    return artifacts(find_number(name, 1).model)


@contextmanager
def flipped_byte(folder: Path, chance: random.Random) -> Iterator[str]:
    """Changes a random bit of a random file, until the block ends."""
    path = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    whole = path.read_bytes()
    place = chance.randrange(len(whole))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << chance.randrange(8))]) + whole[place + 1 :])
    yield f"byte {place} of {path}"
    path.write_bytes(whole)


@contextmanager
def changed_letter(name: str, chance: random.Random) -> Iterator[str]:
    """Changes a random letter of a random entry of the history, or of its digest, until the block ends."""
    client, book = connect(), f"{name}{history.SUFFIX}"
    entry = chance.choice(sorted(client.search_model_versions(f"name = '{book}'"), key=lambda one: int(one.version)))
    key = chance.choice((history.ENTRY, history.DIGEST))
    whole = entry.tags[key]
    place = chance.randrange(len(whole))
    other = chance.choice([letter for letter in "0123456789abcdef{}," if letter != whole[place]])
    client.set_model_version_tag(book, entry.version, key, whole[:place] + other + whole[place + 1 :])
    yield f"letter {place} of {key} of entry {entry.version}"
    client.set_model_version_tag(book, entry.version, key, whole)


def fault(name: str) -> str:
    """What `verify` says about a model's champion; empty if all is well."""
    try:
        verify(name)
    except TrackingError as error:
        return str(error)
    return ""


def find_all(name: str, folder: Path, rounds: int) -> None:
    chance = random.Random(20)
    for _ in range(rounds):
        for change in (flipped_byte(folder, chance), changed_letter(name, chance)):
            with change as what:
                assert "isn't what was" in fault(name), what
    assert not fault(name)


def test_a_version_that_nobody_touched_is_verified(name: str, folder: Path, workspace: Workspace) -> None:
    found = verify(name)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "files.json"]
    assert (found.address, found.files, found.entries) == (f"models:/{name}/1", len(files), 3)
    assert found.signature == "none"
    assert verify(f"{name}@champion") == verify(f"models:/{name}/1") == found
    # The embedded store's model is loaded in place, and that must leave nothing that looks like a change.
    model = mlflow.pyfunc.load_model(f"models:/{name}/1")
    photo = next(iter(open_dataset(workspace.data).photos.values()))
    model.predict(pd.DataFrame({"image": [photo.image.read_bytes()]}))
    assert verify(name) == found
    assert f"files      {found.files}, as {found.actor} registered them on 20" in verification_text(found)


@pytest.mark.slow
def test_many_changes_of_bytes_are_found(name: str, folder: Path) -> None:
    find_all(name, folder, rounds=200)


@server_is_thorough
def test_what_was_changed_is_missing_or_was_added_is_found(name: str, folder: Path) -> None:
    find_all(name, folder, rounds=4)
    for path in (folder / "MLmodel", folder / "files.json", next(folder.rglob("weights.safetensors"))):
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(TrackingError, match=rf"isn't what was registered: .*{path.name} is missing"):
            verify(name)
        path.write_bytes(whole)
    for added in ("more.py", "artifacts/ensemble/members/more.yaml", "model.sig.txt"):
        (folder / added).write_text("more")
        with pytest.raises(TrackingError, match=f"isn't what was registered: {added} was added"):
            verify(name)
        (folder / added).unlink()
    verify(name)

    client, first = connect(), connect().get_model_version(name, "1")
    model = find_number(name, 1).model
    client.set_model_version_tag(name, "1", "backdrop.digest", "0" * 64)
    with pytest.raises(TrackingError, match="isn't what was registered: its ensemble's digest was changed"):
        verify(name)
    other = client.create_model_version(name, first.source, tags=first.tags, model_id=model)
    with pytest.raises(TrackingError, match=rf"The history of {name} doesn't know models:/{name}/{other.version}"):
        verify(f"{name}/{other.version}")


def test_what_is_not_there_is_reported(tracked: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"There is no models:/nobody@champion in .*\. List"):
        verify("nobody")
    with pytest.raises(TrackingError, match="isn't a model's address"):
        verify("no body")
