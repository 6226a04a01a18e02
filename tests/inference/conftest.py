from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def network() -> torch.nn.Module:
    """A small network whose output depends on where the window's border is, so that blending matters."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv3d(1, 6, 3, padding=1),
        torch.nn.InstanceNorm3d(6),
        torch.nn.GELU(),
        torch.nn.Conv3d(6, 4, 3, padding=1),
    ).eval()
