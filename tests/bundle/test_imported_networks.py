"""MONAI's networks with random weights: loaded, saved as a bundle, opened again: the same logits and labels."""

from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.bundle.load import load_bundle
from medseg.bundle.weights import write_state_dict
from medseg.bundle.write import write_bundle
from medseg.networks.imported.monai_mednext import load_monai_mednext
from medseg.networks.imported.monai_segresnet import load_monai_segresnet_ds
from medseg.networks.imported.monai_swin_unetr import load_monai_swin_unetr
from tests.bundle.samples import make_plan

monai_nets = pytest.importorskip("monai.networks.nets")


def loaded(kind: str) -> tuple[torch.nn.Module, Any, dict[str, Any], list[int]]:
    """MONAI's network, ours with its weights, what a plan says of it, and a patch."""
    torch.manual_seed(0)
    if kind.startswith("swin"):
        dims, v2 = int(kind[-1]), kind.startswith("swin_v2")
        theirs = monai_nets.SwinUNETR(1, 3, feature_size=12, spatial_dims=dims, use_v2=v2)
        ours: Any = load_monai_swin_unetr(None, theirs.state_dict())
        return theirs, ours, ours.configuration, [64, 32, 32][:dims]
    if kind == "mednext":
        theirs = monai_nets.mednext.create_mednext("B", 2, 1, 3)
        ours = load_monai_mednext(theirs.state_dict())
        return theirs, ours, ours.configuration, [32, 48]
    theirs = monai_nets.SegResNetDS(3, 8, 1, 3, blocks_down=(1, 2, 1))
    ours = load_monai_segresnet_ds(theirs.state_dict())
    return theirs, ours, {"_target_": "medseg.components.build_segresnet_ds", **ours.configuration}, [16, 12, 8]


@pytest.mark.parametrize("kind", ["swin_2", "swin_3", "swin_v2_2", "swin_v2_3", "mednext", "segresnet_ds"])
def test_a_saved_and_reopened_bundle_gives_monais_logits_and_labels(kind: str, tmp_path: Path) -> None:
    theirs, ours, network, roi = loaded(kind)
    plan = make_plan(tmp_path, ["a", "b"], name="tiny", spatial_dims=len(roi), network=network, roi_size=roi)
    layout = write_bundle(tmp_path / "tiny", plan)
    write_state_dict(layout.weights, ours.state_dict())
    again = load_bundle(layout.folder).network()
    image = torch.randn(1, 1, *roi, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs.eval()(image), again(image)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    first, second = expected.topk(2, dim=1).values.unbind(1)
    clear = first - second >= 1e-4
    assert torch.equal(found.argmax(1)[clear], expected.argmax(1)[clear])
    assert clear.float().mean() > 0.9
