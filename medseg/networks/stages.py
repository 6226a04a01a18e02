"""A stage: the residual sub-layers of one level, in order, on images (all convolutions) or on channels-last tokens."""

from typing import Final, Tuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medseg.networks.context import Context, Site
from medseg.networks.layers import DropPath, layer_scale, to_image, to_tokens, token_norm


class Residual(nn.Module):
    """x + gain * mixer(norm(x)): the pre-norm sub-layer around every token and channel mixer."""

    def __init__(self, site: Site, mixer: nn.Module) -> None:
        super().__init__()
        self.norm = token_norm(site.token_norm, site.width, site.token_norm_eps)
        self.mixer = mixer
        self.gain = layer_scale(site.width, site.layer_scale)
        self.drop = DropPath(site.drop_path)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        branch, context = self.mixer(self.norm(x), context)
        return x + self.drop(self.gain(branch)), context


class Unchanged(nn.Module):
    """A residual sub-layer whose mixer adds nothing."""

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        return x, context


class OnImage(nn.Module):
    """A convolution kind inside a token stage: sees the tokens as a channel-first image, by views only."""

    spatial_dims: Final[int]

    def __init__(self, site: Site, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.spatial_dims = site.spatial_dims

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        return to_tokens(self.block(to_image(x, self.spatial_dims))), context


class ConvStage(nn.Module):
    """Convolution kinds one after the other."""

    checkpointing: Final[bool]

    def __init__(self, layers: list[nn.Module], *, checkpointing: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.checkpointing = checkpointing

    def forward(self, image: Tensor) -> Tensor:
        for layer in self.layers:
            if torch.jit.is_scripting() or not self.checkpointing:  # type: ignore[attr-defined]
                image = layer(image)
            else:
                image = checkpoint(layer, image, use_reentrant=False)
        return image


class TokenStage(nn.Module):
    """Token sub-layers one after the other; `prepare` makes the side tensors (carriers, global query) once, at entry."""

    spatial_dims: Final[int]
    checkpointing: Final[bool]

    def __init__(self, site: Site, layers: list[nn.Module], prepare: list[nn.Module], *,
                 checkpointing: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.prepare = nn.ModuleList(prepare)
        self.layers = nn.ModuleList(layers)
        self.spatial_dims = site.spatial_dims
        self.checkpointing = checkpointing

    def forward(self, image: Tensor) -> Tensor:
        x = to_tokens(image).contiguous()
        context = Context()
        for step in self.prepare:
            context = step(x, context)
        for layer in self.layers:
            if torch.jit.is_scripting() or not self.checkpointing:  # type: ignore[attr-defined]
                x, context = layer(x, context)
            else:
                x, context = checkpoint(layer, x, context, use_reentrant=False)
        return to_image(x, self.spatial_dims).contiguous()
