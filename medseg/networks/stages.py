"""A stage: the residual sub-layers of one level, in order, on images (all convolutions) or on channels-last tokens."""

from typing import Final, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .contract import Context, Site
from .layers.batch_rows import carried
from .layers.common import DropPath, crop_like, layer_scale, pad_to_multiple, to_image, to_tokens, token_norm
from .mixers.masking import hide


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


class Replacing(nn.Module):
    """mixer(norm(x)) in the place of x: U-Mamba's layers have no residual."""

    def __init__(self, site: Site, mixer: nn.Module) -> None:
        super().__init__()
        self.norm = token_norm(site.token_norm, site.width, site.token_norm_eps)
        self.mixer = mixer

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        return self.mixer(self.norm(x), context)


class OnChannels(nn.Module):
    """A sub-layer that sees every channel as a token, whose channels are the voxels of the map (U-Mamba, xLSTM-UNet).

    Args:
        layer: made for `count` channels.
        count: voxels of the map; another number is an error, since the layer's weights belong to places.
    """

    count: Final[int]

    def __init__(self, layer: nn.Module, count: int) -> None:
        super().__init__()
        self.layer, self.count = layer, count

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        tokens = hide(x, context.valid).flatten(1, 3)
        assert tokens.shape[1] == self.count, (
            "the channels are the tokens here: only patches of roi_size can be computed"
        )
        y, _ = self.layer(
            tokens.transpose(1, 2)[:, :, None, None, :].contiguous(), Context(None, None, None, None, None)
        )
        return y[:, :, 0, 0].transpose(1, 2).reshape(x.shape), context


class Branches(nn.Module):
    """Sequences of sub-layers that see the same tokens, added up, with or without the tokens themselves."""

    residual: Final[bool]

    def __init__(self, branches: List[nn.Module], *, residual: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.residual = residual

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        total = x if self.residual else torch.zeros_like(x)
        for branch in self.branches:
            y, context = branch(x, context)
            total = total + y
        return total, context


class Sequence(nn.Module):
    """Sub-layers one after the other, as one."""

    def __init__(self, layers: List[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, context: Context) -> Tuple[Tensor, Context]:
        for layer in self.layers:
            x, context = layer(x, context)
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

    def __init__(self, layers: List[nn.Module], *, checkpointing: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.checkpointing = checkpointing

    def forward(self, image: Tensor, condition: Optional[Tensor] = None, valid: Optional[Tensor] = None) -> Tensor:
        for layer in self.layers:
            if torch.jit.is_scripting() or not self.checkpointing:  # type: ignore[attr-defined]
                image = layer(image)
            else:
                image = checkpoint(layer, image, use_reentrant=False, context_fn=carried)
        return image


class TokenStage(nn.Module):
    """Token sub-layers one after the other.

    Args:
        site: of the stage.
        layers: (x, context) -> (x, context).
        prepare: steps that make the side tensors (carriers, global query) once, from the stage's input.
        pad_windows: fill the grid with zeros up to a multiple of the window, as released networks do.
        checkpointing: recompute each sub-layer in the backward pass.
    """

    spatial_dims: Final[int]
    checkpointing: Final[bool]
    pad_windows: Final[bool]

    def __init__(self, site: Site, layers: List[nn.Module], prepare: List[nn.Module], *, pad_windows: bool = False,
                 checkpointing: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.prepare = nn.ModuleList(prepare)
        self.layers = nn.ModuleList(layers)
        self.spatial_dims = site.spatial_dims
        self.checkpointing, self.pad_windows = checkpointing, pad_windows
        self.window: List[int] = list((site.window_size or (1, 1, 1))[: site.spatial_dims])

    def forward(self, image: Tensor, condition: Optional[Tensor] = None, valid: Optional[Tensor] = None) -> Tensor:
        padded = pad_to_multiple(image, self.window) if self.pad_windows else image
        x = to_tokens(padded).contiguous()
        real: Optional[Tensor] = None
        if valid is not None:
            mask = pad_to_multiple(valid.to(x.dtype), self.window) if self.pad_windows else valid.to(x.dtype)
            real = to_tokens(mask).squeeze(-1) > 0.5
            x = hide(x, real)
        context = Context(None, None, condition, real)
        for step in self.prepare:
            context = step(x, context)
        for layer in self.layers:
            if torch.jit.is_scripting() or not self.checkpointing:  # type: ignore[attr-defined]
                x, context = layer(x, context)
            else:
                x, context = checkpoint(layer, x, context, use_reentrant=False, context_fn=carried)
        result = to_image(x, self.spatial_dims).contiguous()
        return crop_like(result, image) if self.pad_windows else result
