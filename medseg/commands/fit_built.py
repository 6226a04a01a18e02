"""A resolved train.json becomes objects: as data by our reader, or as it says by MONAI's workflow; errors are told as raised."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medseg.bundle.opening.parser import SafeConfig
from medseg.errors import BundleError, MedsegError


def told_as_raised(reader: SafeConfig, work: Callable[[SafeConfig], Any]) -> Any:
    """What is done with a configuration; an error of ours inside MONAI's parser is told as it was raised.

    Raises:
        MedsegError: see `SafeConfig.get`.
    """
    try:
        return work(reader)
    except BundleError as error:
        cause = error.__cause__
        if cause is None or "Failed to instantiate" not in str(cause):
            raise
        first = _first_cause(cause)
        raise (first if isinstance(first, MedsegError) else error) from cause


def build_first(reader: SafeConfig) -> None:
    """Seed, then build the network with the weights it starts from, the loss and the list of cases: what is wrong with them
    leaves an earlier run alone.
    """
    from medseg.training.initialize import load_matching

    if "initialize" in reader:
        reader.get("initialize")
    if "train::module" in reader:
        module = reader.get("train::module")
        weights = reader.get("pretrained") if "pretrained" in reader else None
        if weights is not None and not reader.get("resume"):  # the run loads them again, once its folder is made
            partial = reader.get("run::partial") if "run::partial" in reader else ()
            load_matching(module.network, Path(weights), partial=partial, quiet=True)
    for part in ("train", "validate"):
        if f"{part}::dataset" in reader:
            getattr(reader.get(f"{part}::dataset"), "cases", None)


def try_weights(config: Mapping[str, Any], metadata: Path) -> None:
    """Load the weights that a run starts from into the network that MONAI's workflow is about to build: what does not fit is
    told while an earlier run is still in its place. A module without a `network` is the bundle's own matter.

    Raises:
        BundleError: see `load_matching`.
    """
    from monai.bundle import ConfigParser

    from medseg.training.initialize import load_matching

    weights = config.get("pretrained")
    if weights is None or config.get("resume"):
        return
    parser = ConfigParser(copy.deepcopy(dict(config)))
    try:
        parser.read_meta(str(metadata))
        if "initialize" in parser:
            parser.get_parsed_content("initialize")
        module = parser.get_parsed_content("train::module") if "train::module" in parser else None
    except RuntimeError as error:
        raise _first_cause(error) from error
    network = getattr(module, "network", None)
    if network is not None:
        partial = config["run"].get("partial", ()) if isinstance(config.get("run"), Mapping) else ()
        load_matching(network, Path(weights), partial=partial, quiet=True)


def run_trusted(config: Path, metadata: Path) -> Any:
    """The same `ConfigWorkflow` that `python -m monai.bundle run` builds."""
    from monai.bundle import ConfigWorkflow

    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it warns that we bring our own logging
    workflow = ConfigWorkflow(
        config_file=str(config), meta_file=str(metadata), logging_file=False, workflow_type="train"
    )
    try:
        workflow.initialize()
        result = workflow.run()
        workflow.finalize()
    except RuntimeError as error:
        raise _first_cause(error) from error
    return result


def _first_cause(error: BaseException) -> BaseException:
    """What really happened: MONAI wraps every error of a component in "Failed to instantiate ..."."""
    while error.__cause__ is not None and "Failed to instantiate" in str(error):
        error = error.__cause__
    return error
