"""What MLflow runs when it serves a registered bundle. Logged as source (models-from-code): no pickle is involved.

Input: a table with a column `image` (path of a volume). Output: the same rows with `label`, the path of the label map
that was written into the parameter `output_folder`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import set_model

import medseg


class BundleModel(mlflow.pyfunc.PythonModel):
    """A bundle behind MLflow's `predict`."""

    def load_context(self, context: Any) -> None:
        self.bundle = str(context.artifacts["bundle"])

    def predict(self, context: object, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Segment every image of the table.

        Raises:
            RuntimeError: a case failed; the message holds its own one-line error.
        """
        images = [str(path) for path in model_input["image"]]
        folder = Path((params or {}).get("output_folder") or "predictions")
        result = medseg.predict(self.bundle, images, folder, preview=False)
        failed = {case.name: case.error for case in result.cases if case.status == "failed"}
        if failed:
            raise RuntimeError("; ".join(f"{name}: {error}" for name, error in failed.items()))
        labels = [str(folder / case.outputs[0]) for case in result.cases]
        return pd.DataFrame({"image": images, "label": labels})


set_model(BundleModel())
