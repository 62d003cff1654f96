"""A fast correlation for ptlflow's networks."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def row_correlation(first: torch.Tensor, second: torch.Tensor, patch: int, dilation: int = 1) -> torch.Tensor:
    """Correlation of two feature maps over a square of displacements, by one matrix product per row.

    The result is that of `spatial_correlation_sample` of kernel size 1 (zeros outside the map). A row of the first
    map times a row of the second gives the products of all pairs of columns, of which the needed
    displacements are diagonals, read through strides: nothing is resampled or copied per displacement.

    Args:
        first, second: (B, C, H, W).
        patch: how many displacements along each axis, odd: -(patch // 2) .. patch // 2, times `dilation` pixels.

    Returns:
        (B, patch, patch, H, W): sums over channels; displacement axes in the order y, x.
    """
    import torch
    import torch.nn.functional as F

    batch, channels, height, width = first.shape
    reach = patch // 2 * dilation
    rows = first.permute(0, 2, 3, 1).reshape(batch * height, width, channels).contiguous()
    padded = F.pad(second, (reach,) * 4).transpose(1, 2).contiguous()  # (B, H + 2 reach, C, W + 2 reach)
    wide = width + 2 * reach
    result = first.new_empty(batch, patch, patch, height, width)
    for i in range(patch):
        shifted = padded[:, i * dilation : i * dilation + height].reshape(batch * height, channels, wide)
        products = torch.bmm(rows, shifted)  # [row, x, x'] with x' counted from -reach
        strides = (height * width * wide, width * wide, wide + 1, dilation)
        diagonals = products.as_strided((batch, height, width, patch), strides)
        result[:, i] = diagonals.permute(0, 3, 1, 2)
    return result


def use_row_correlation(network: torch.nn.Module) -> torch.nn.Module:
    """Replace ptlflow's correlation by `row_correlation`, in this instance only. Returns the network.

    Without a compiled extension ptlflow resamples the second map once per displacement: 9 to 10 GB and
    half a minute for a pair of 854 x 480 images in FlowNet2. With the extension nothing is replaced.
    """
    from torch import nn

    with quiet():
        from ptlflow.models.flownet.flownetc import FlowNetC
        from ptlflow.models.flownet.submodules import spatial_correlation_sample
        from ptlflow.utils.correlation import IterSpatialCorrelationSampler, iter_spatial_correlation_sample

    class RowCorrelation(nn.Module):
        def __init__(self, patch: int, dilation: int) -> None:
            super().__init__()
            self.patch, self.dilation = patch, dilation

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return row_correlation(first, second, self.patch, self.dilation)

    for module in list(network.modules()):
        if isinstance(module, FlowNetC) and spatial_correlation_sample is iter_spatial_correlation_sample:
            module.corr = _flownet_correlation
        for name, child in list(module.named_children()):
            if isinstance(child, IterSpatialCorrelationSampler):
                one = {_one_side(child.kernel_size), _one_side(child.stride), _one_side(child.dilation)}
                patch, dilation = _one_side(child.patch_size), _one_side(child.dilation_patch)
                if one == {1} and _one_side(child.padding) == 0 and patch and patch % 2 and dilation:
                    setattr(module, name, RowCorrelation(patch, dilation))
    return network


def _flownet_correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """FlowNetC's correlation: 21 x 21 displacements of 2 pixels, mean over channels. (B, 441, H, W)."""
    return row_correlation(first, second, patch=21, dilation=2).flatten(1, 2) / first.shape[1]


def _one_side(value: int | tuple[int, int]) -> int | None:
    """The number that stands for both axes, or None if the axes differ."""
    if isinstance(value, int):
        return value
    return value[0] if value[0] == value[1] else None


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what the block prints, warns and logs. Exceptions pass."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
