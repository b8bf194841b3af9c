"""The registered model's code for MLflow: it takes a photograph's bytes and returns its mask's bytes.

MLflow copies this file beside the weights and executes it ("models from code"), so nothing is pickled.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from backdrop.common.errors import DataError


class CutOut(PythonModel):
    """Predicts masks with the ensemble beside this file."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the ensemble; its weights are verified, and are never pickles."""
        from backdrop.inference.ensemble import (
            load_ensemble,  # torch takes seconds, and logging the model needs none of it
        )

        self.ensemble = load_ensemble(Path(context.artifacts["ensemble"]))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  # part of MLflow's interface
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002  # part of MLflow's interface
    ) -> pd.DataFrame:
        """Takes a column `image` of JPEG or PNG files' bytes, returns a column `mask` of PNG files' bytes (0 and 255).

        Raises:
            MlflowException: if a row isn't an image.
        """
        return pd.DataFrame({"mask": [self._cut(data) for data in model_input["image"]]})

    def _cut(self, data: bytes) -> bytes:
        from backdrop.data.formats import decoded  # as above
        from backdrop.data.masks import encode_png

        try:
            with decoded(data, "An image of column image") as image:
                photo = self.ensemble.prepare(image)
            del image
        except DataError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        (outcome,) = self.ensemble.outcomes([photo])
        return encode_png(self.ensemble.cut(outcome, ""))


set_model(CutOut())
