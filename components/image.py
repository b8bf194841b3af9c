"""The images of the components, and the decorators that make a function a component in one of them."""

import os
from collections.abc import Callable
from typing import Any

from kfp import dsl
from kfp.dsl.component_factory import EXECUTOR_MODULE
from kfp.dsl.python_component import PythonComponent

from backdrop import __version__

REGISTRY = "ghcr.io/backdrop-ml"
IMAGE = os.environ.get("BACKDROP_IMAGE") or f"{REGISTRY}/backdrop:{__version__}"
# Without CUDA, for tasks that run no network. Who names only the other one has one image for all.
RELEASED_CPU = f"{REGISTRY}/backdrop-cpu:{__version__}"
CPU_IMAGE = os.environ.get("BACKDROP_CPU_IMAGE") or os.environ.get("BACKDROP_IMAGE") or RELEASED_CPU
RUN, RUN_OURS = f"python3 -m {EXECUTOR_MODULE} ", f"python3 -m backdrop.components.task {EXECUTOR_MODULE} "


def component(body: Callable[..., Any], image: str = IMAGE) -> PythonComponent:
    """Makes a function a component. The image has everything that it needs: nothing is installed when a pod starts."""
    made: PythonComponent = dsl.component(body, base_image=image, packages_to_install=[], install_kfp_package=False)
    command = made.component_spec.implementation.container.command
    command[2] = command[2].replace(RUN, RUN_OURS)
    return made


def cpu_component(body: Callable[..., Any]) -> PythonComponent:
    """Makes a function that runs no network a component: no node pulls CUDA for it."""
    return component(body, CPU_IMAGE)
