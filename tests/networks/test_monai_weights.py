"""The preset swin_unetr with MONAI's weights computes what MONAI computes."""

import pytest
import torch

from medseg.errors import ConfigError
from medseg.networks import build_network
from medseg.networks.imported.monai_swin_unetr import load_monai_swin_unetr

monai_nets = pytest.importorskip("monai.networks.nets")


def test_monai_weights_give_monais_logits() -> None:
    torch.manual_seed(0)
    theirs = monai_nets.SwinUNETR(in_channels=1, out_channels=3, feature_size=12, num_heads=(3, 6, 12, 24)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # what starts at zero or one hides mistakes
            parameter.add_(0.05 * torch.randn_like(parameter))
    ours = build_network("swin_unetr", size="12", out_channels=3, padding="published").eval()
    load_monai_swin_unetr(ours, theirs.state_dict())
    image = torch.randn(1, 1, 64, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-3, atol=1e-3)


def test_weights_of_another_size_are_refused() -> None:
    state = monai_nets.SwinUNETR(in_channels=1, out_channels=3, feature_size=24).state_dict()
    with pytest.raises(ConfigError, match="missing or of another shape"):
        load_monai_swin_unetr(build_network("swin_unetr", size="12", out_channels=3), state)
