"""What `import backdrop` gives: every step as a function, loaded when it is asked for."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import backdrop

STEPS = [path.stem for path in (Path(backdrop.__file__).parent / "steps").glob("*.py")]
# `backdrop.models` are the networks; what `champion` and `members` have is no verb.
NO_EXPORT = {"__init__", "champion", "members", "models"}
IMPORT = {"import_": "import_photos"}  # Python has the step's own name for itself


def test_every_step_is_exported_and_nothing_else() -> None:
    assert sorted(backdrop.__all__) == sorted(
        {"BackdropError", *(IMPORT.get(name, name) for name in STEPS)} - NO_EXPORT
    )
    assert set(dir(backdrop)) >= {*backdrop.__all__, "__version__"}


@pytest.mark.parametrize("module", sorted(set(STEPS) - NO_EXPORT))
def test_an_export_is_the_step_itself(module: str) -> None:
    name = IMPORT.get(module, module)
    step = getattr(backdrop, name)
    assert step is getattr(importlib.import_module(f"backdrop.steps.{module}"), name)
    assert inspect.isfunction(step)
    assert step.__doc__


def test_the_error_is_exported() -> None:
    from backdrop.common.errors import BackdropError

    assert backdrop.BackdropError is BackdropError


def test_what_type_checkers_see_is_what_there_is() -> None:
    tree = ast.parse(Path(backdrop.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    imported = [alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == sorted(backdrop.__all__)


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'backdrop' has no attribute 'trane'"):
        backdrop.trane  # noqa: B018  # asking for it is the test


def test_importing_loads_nothing() -> None:
    code = "import sys; before = set(sys.modules); import backdrop; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in loaded if name.partition(".")[0] == "backdrop"] == ["backdrop"]
    assert not {"torch", "numpy", "pydantic", "kfp", "cv2", "mlflow"} & set(loaded)
