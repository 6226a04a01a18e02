"""Names of mamba_ssm.utils.hf, which loads from a hub: they are there for code that imports them, and refuse to run."""

from ...options import UnknownOptionError


def load_config_hf(model_name: str) -> object:
    raise UnknownOptionError(
        f"medseg_kernels.compat: load_config_hf({model_name!r}): nothing is loaded from a hub here"
    )


def load_state_dict_hf(model_name: str, device: object = None, dtype: object = None) -> object:
    raise UnknownOptionError(
        f"medseg_kernels.compat: load_state_dict_hf({model_name!r}): load a file with torch.load instead"
    )
