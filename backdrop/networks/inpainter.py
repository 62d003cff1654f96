"""The inpainter: an image with a hole -> the image without it; trained alone, then frozen for good."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from backdrop.errors import BackdropError
from backdrop.networks.model_folders import load_network, with_weights


class _Block(nn.Sequential):
    """Two 3 x 3 convolutions, each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Inpainter(nn.Module):
    """U-Net with one stage for each channel count (papers: 8, 16, 32, 64, 128, 256).

    Hole pixels are 0, the mean color of a normalized image; no channel tells where the hole is. The image is
    padded to a multiple of the coarsest stage's stride by repeating its border.
    """

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.stride = 2 ** (len(channels) - 1)
        self.down = nn.ModuleList(_Block(i, o) for i, o in zip([3, *channels[:-1]], channels, strict=True))
        deep_first = channels[::-1]
        self.up = nn.ModuleList(_Block(i + o, o) for i, o in zip(deep_first[:-1], deep_first[1:], strict=True))
        self.out = nn.Conv2d(channels[0], 3, 1)

    def start_color(self, color: Float[Tensor, " 3"]) -> None:
        """Let an untrained network fill holes with about one color, that of its images on average.

        From 0 the last layer takes thousands of iterations to reach the white of flow images, and until then a hole
        costs the more the more of it is white: what moves is then what L_bg avoids.
        """
        assert self.out.bias is not None
        with torch.no_grad():
            self.out.bias.copy_(color)

    def freeze(self) -> Inpainter:
        """No parameter learns and batch norm keeps its statistics, whatever `train()` says later."""
        self.requires_grad_(False)
        super().train(False)
        self.train = lambda mode=True: self  # type: ignore[method-assign,assignment]
        return self

    def forward(self, image: Float[Tensor, "B 3 H W"], hole: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3 H W"]:
        """The network's output for all pixels; what is under the hole (1 = erased) is never seen."""
        height, width = image.shape[2:]
        x = image * (1 - hole)
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        levels: list[Tensor] = []
        for block in self.down:
            x = block(x if not levels else F.max_pool2d(x, 2))
            levels.append(x)
        for block, level in zip(self.up, levels[-2::-1], strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, level], dim=1))
        return self.out(x)[:, :, :height, :width].float()

    def background(self, image: Float[Tensor, "B 3 H W"], hole: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Ibar: the output inside the hole, the image itself outside it."""
        return hole * self(image, hole) + (1 - hole) * image


def load_inpainter(folder: Path) -> Inpainter:
    """The frozen inpainter of a model folder.

    Raises:
        BackdropError: the folder is no inpainter's.
    """
    state, config = load_network(folder)
    try:
        inpainter = with_weights(lambda: Inpainter(config["channels"]), state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BackdropError(f"{folder} holds no inpainter ({reason}): run the stage inpaint again") from None
    return inpainter.freeze()
