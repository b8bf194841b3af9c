from pathlib import Path

import pytest

from backdrop.common.errors import TrackingError
from backdrop.steps.predict import predict
from backdrop.steps.promote import promote
from backdrop.steps.register import register
from tests.tracking.workspace import Workspace, server_is_thorough


@server_is_thorough
def test_the_champion_cuts_out_as_its_members_do(tracked: str, workspace: Workspace, tmp_path: Path) -> None:
    name, images = f"model-{tmp_path.name}", str(workspace.data / "train")
    champion, members = f"models:/{name}@champion", [str(folder) for folder in workspace.members(1)]
    with pytest.raises(TrackingError, match=f"There is no {champion}"):
        predict(images, str(tmp_path / "none"), model=champion)
    ensemble = str(workspace.ensemble(1))
    register(str(workspace.data), [str(workspace.plan)], members, str(workspace.report(0.95)), ensemble, name)
    assert promote(str(workspace.data), name).outcome == "promoted"
    predict(images, str(tmp_path / "champion"), model=champion, format="submission")
    predict(images, str(tmp_path / "members"), members, ensemble=ensemble, format="submission")
    for file in ("submission.csv.gz", "predict.json"):
        assert (tmp_path / "champion" / file).read_bytes() == (tmp_path / "members" / file).read_bytes()
