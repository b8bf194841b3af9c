"""What MLflow's pages say about a model: always what its history says."""

import re
import urllib.request
from pathlib import Path

import pytest

from backdrop import __version__
from backdrop.steps.hold import hold
from backdrop.steps.promote import override, promote
from backdrop.steps.release import release
from backdrop.steps.rollback import rollback
from backdrop.tracking import tracking_uri
from backdrop.tracking.client import connect
from backdrop.tracking.model_card import LONGEST, plain
from tests.tracking.workspace import HELD, Workspace, server_is_thorough


@pytest.fixture
def name(tracked: str, tmp_path: Path) -> str:
    return f"model-{tmp_path.name}"


def outcomes(name: str) -> list[str]:
    found = connect().search_model_versions(f"name = '{name}'")
    return [one.tags["outcome"] for one in sorted(found, key=lambda one: int(one.version))]


def card(name: str, version: int | None = None) -> str:
    """The description of a version, or of the model; words of Markdown apart."""
    client = connect()
    text = client.get_model_version(name, str(version)) if version else client.get_registered_model(name)
    return str(text.description)


@server_is_thorough
def test_the_cards_follow_the_history(name: str, workspace: Workspace) -> None:
    data = str(workspace.data)
    (workspace.data / "LICENSE").write_text("\n# CC0 1.0 Universal\nmore\n")
    workspace.register(name, 1, 0.95)
    assert card(name).startswith("**No version is in use yet.**\n\nVersion 1 is the challenger (not judged yet).")
    assert card(name, 1).startswith("Not judged yet; registered 20")
    promote(data, name)
    for seed, dice in ((2, 0.93), (3, 0.97)):
        workspace.register(name, seed, dice)
        promote(data, name)
    assert outcomes(name) == ["replaced", "rejected", "promoted"]
    assert "**Version 3 is in use** since 20" in card(name)
    assert "Dice **0.96825** (95 % interval 0.96767 to 0.96883) on 12 objects." in card(name)
    assert "The gate's verdict: rejected, worse on a slice; the champion stays. Dice on 12 holdout" in card(name, 2)
    for words in (
        "In use since 20",
        "Promoted by the gate: better than the champion.",
        "| Dice on the holdout | **0.96825** (95 % interval 0.96767 to 0.96883) |",
        f"| Holdout | {HELD} objects, {2 * HELD} photographs, on which no member trained |",
        "| Data | 16 objects, 32 photographs, sha256:",
        "| License of the data | CC0 1.0 Universal |",
        f"backdrop predict photos --model models:/{name}/3 --out masks",
    ):
        assert words in card(name, 3)

    rollback(name, reason="halos | around *glass*")
    assert outcomes(name) == ["promoted", "rejected", "rolled back"]
    assert card(name, 3).startswith("Rolled back on 20")
    assert r": halos \| around \*glass\*. Only people replace it until `backdrop release " in card(name, 1)
    assert "**Held** since" in card(name)
    release(name)
    assert "Held" not in card(name) + card(name, 1)
    override(name, 2, "a person")
    hold(name, "x|" * 9000)
    assert outcomes(name) == ["replaced", "promoted", "rolled back"]
    assert re.match(r"Replaced by version 2 on 20.*\. Promoted by .*: override: a person\.", card(name, 1))
    book = connect().search_model_versions(f"name = '{name}.history'")
    model = connect().get_registered_model(name)
    assert all(len(one.description) <= LONGEST for one in (*book, model))  # or PostgreSQL refuses it
    assert all(len(value) <= LONGEST for value in model.tags.values())


def test_versions_can_be_filtered_by_their_tags(name: str, workspace: Workspace) -> None:
    workspace.register(name, 1, 0.95)
    run = workspace.register(name, 2, 0.93).run_id
    tags = connect().get_model_version(name, "1").tags
    assert (tags["dice"], tags["backdrop"]) == ("0.94825", __version__)
    assert tags["data"] == connect().get_run(run).data.tags["backdrop.data"]
    query = f"name = '{name}' and tags.outcome = 'registered' and tags.dice = '0.92825'"
    assert [one.version for one in connect().search_model_versions(query)] in (["2"], [2])


def test_the_picture_of_the_worst_is_where_the_page_looks(name: str, workspace: Workspace, tracked: str) -> None:
    run = workspace.register(name, 1, 0.95).run_id
    match = re.search(r"!\[Worst cases\]\((get-artifact\?path=report/worst\.jpg&run_uuid=(\w+))\)", card(name, 1))
    assert match is not None
    assert match[2] == run
    assert match[0] in connect().get_run(run).data.tags["mlflow.note.content"]
    if tracked == "server":
        with urllib.request.urlopen(f"{tracking_uri()}/{match[1]}") as answer:
            assert (answer.headers["content-type"], answer.read()) == ("image/jpeg", b"picture")


def test_what_people_write_is_shown_as_they_wrote_it() -> None:
    assert plain("a | *b*\n<b> & [c](d) `e`") == r"a \| \*b\* &lt;b&gt; &amp; \[c\](d) \`e\`"
    assert plain("x" * 1000) == "x" * 599 + "…"
