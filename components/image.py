"""The image of every component, and the decorator that makes a function a component in that image."""

import os
from collections.abc import Callable
from typing import Any

from kfp import dsl
from kfp.dsl.component_factory import EXECUTOR_MODULE
from kfp.dsl.python_component import PythonComponent

from backdrop import __version__

IMAGE = os.environ.get("BACKDROP_IMAGE") or f"ghcr.io/backdrop-ml/backdrop:{__version__}"
RUN, RUN_OURS = f"python3 -m {EXECUTOR_MODULE} ", f"python3 -m backdrop.components.task {EXECUTOR_MODULE} "


def component(body: Callable[..., Any]) -> PythonComponent:
    """Makes a function a component. The image has everything that it needs: nothing is installed when a pod starts."""
    made: PythonComponent = dsl.component(body, base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
    command = made.component_spec.implementation.container.command
    command[2] = command[2].replace(RUN, RUN_OURS)
    return made
