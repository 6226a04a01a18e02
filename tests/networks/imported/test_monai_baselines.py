"""MONAI's MedNeXt and SegResNetDS: what is loaded and built again computes what MONAI computes."""

import json
from typing import Any

import pytest
import torch

from medseg.errors import ConfigError
from medseg.networks import build_network
from medseg.networks.imported.monai_mednext import load_monai_mednext
from medseg.networks.imported.monai_segresnet import build_segresnet_ds, load_monai_segresnet_ds

monai_nets = pytest.importorskip("monai.networks.nets")
mednext = pytest.importorskip("monai.networks.nets.mednext")


def moved(network: torch.nn.Module) -> torch.nn.Module:
    """Every parameter and statistic away from where it starts."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]:
            value.add_(0.1 * torch.rand_like(value))
    return network.double().eval()


def assert_same(found: torch.nn.Module, theirs: torch.nn.Module, image: torch.Tensor) -> None:
    with torch.no_grad():
        expected = theirs(image.double())
        assert (found.double().eval()(image.double()) - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize(("size", "dims", "kernel"), [("S", 3, 3), ("B", 2, 5), ("M", 2, 3)])
def test_mednext(size: str, dims: int, kernel: int) -> None:
    theirs = moved(mednext.create_mednext(size, dims, 2, 3, kernel_size=kernel, deep_supervision=dims == 3))
    loaded = load_monai_mednext(theirs.float().state_dict())
    again = build_network(**json.loads(json.dumps(loaded.configuration)))
    again.load_state_dict(loaded.state_dict())
    assert_same(again, theirs.double(), torch.randn(1, 2, *(16, 32, 16)[:dims]))


def test_mednext_of_another_form_is_refused() -> None:
    for options, says in (
        ({"init_filters": 16}, "width 16"),
        ({"global_resp_norm": True}, "global_resp_norm"),
        ({"use_residual_connection": False}, "residual ways"),
        ({"blocks_down": (1, 2, 2, 2)}, r"\[1, 2, 2, 2, 2"),
    ):
        settings: dict[str, Any] = {"spatial_dims": 2, "kernel_size": 3, "use_residual_connection": True, **options}
        with pytest.raises(ConfigError, match=says):
            load_monai_mednext(mednext.MedNeXt(**settings).state_dict())


@pytest.mark.parametrize(
    ("dims", "norm", "dsdepth"), [(2, "instance", 2), (3, "batch", 1), (2, ("group", {"num_groups": 8}), 1)]
)
def test_segresnet_ds(dims: int, norm: Any, dsdepth: int) -> None:
    kind = norm if isinstance(norm, str) else norm[0]
    theirs = moved(
        monai_nets.SegResNetDS(dims, 8, 2, 3, norm=norm, blocks_down=(1, 2, 1), blocks_up=(2, 1), dsdepth=dsdepth)
    )
    loaded = load_monai_segresnet_ds(theirs.float().state_dict(), norm=None if kind == "batch" else kind)
    again = build_segresnet_ds(**json.loads(json.dumps(loaded.configuration)))
    again.load_state_dict(loaded.state_dict())
    image = torch.randn(2, 2, *(16, 8, 12)[:dims])
    assert_same(again, theirs.double(), image)
    assert len(again.forward_scales(image.double())) == dsdepth


def test_segresnet_ds_whose_norm_cannot_be_told_or_lacks_its_statistics_is_refused() -> None:
    state = monai_nets.SegResNetDS(2, 8, norm="instance").state_dict()
    with pytest.raises(ConfigError, match="expected norm='instance' or 'group'"):
        load_monai_segresnet_ds(state)
    state = monai_nets.SegResNetDS(2, 8).state_dict()
    del state["encoder.layers.0.blocks.0.norm1.running_var"]
    with pytest.raises(ConfigError, match=r"nothing for encoder\.layers\.0\.blocks\.0\.norm1\.running_var \(8,\)"):
        load_monai_segresnet_ds(state)
