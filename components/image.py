"""The image of every component, and the decorator that makes a function a component in that image."""

import os
from functools import partial

from kfp import dsl

from backdrop import __version__

IMAGE = os.environ.get("BACKDROP_IMAGE") or f"ghcr.io/backdrop-ml/backdrop:{__version__}"

# The image has everything that a task needs: nothing is installed when a pod starts.
component = partial(dsl.component, base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
