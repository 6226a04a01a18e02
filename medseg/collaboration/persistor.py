"""The global weights of a federated training: made from the bundle at the start, written after every round."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor

from medseg.bundle.opening.parser import checked_config
from medseg.tracking.determinism import seed_all
from medseg.training.checkpoint_io import write_weights

from .sites import SITES_VARIABLE

PREFIX = "network."  # the Lightning module's name for its network
GLOBAL = "global.pt"


class GlobalWeights(ModelPersistor):
    """Loads and saves the averaged network.

    Args:
        definition: `network_def` of train.json.
        seed: of the first weights, as `medseg fit` seeds them.
    """

    def __init__(self, definition: dict[str, Any], seed: int = 0) -> None:
        super().__init__()
        self.definition, self.seed = definition, seed

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        """First weights, from the seed."""
        seed_all(self.seed)
        network = checked_config({"network_def": dict(self.definition)}, Path("network_def")).get("network_def")
        weights = {PREFIX + name: tensor.numpy() for name, tensor in network.state_dict().items()}
        return make_model_learnable(weights, {})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        """The averaged weights as a plain state dict: in the folder of the sites where there is one, else in the job's."""
        root = os.environ.get(SITES_VARIABLE)
        run = fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id())
        state = {
            name.removeprefix(PREFIX): torch.as_tensor(value)
            for name, value in model[ModelLearnableKey.WEIGHTS].items()
        }
        write_weights(state, Path(root or run) / GLOBAL)
