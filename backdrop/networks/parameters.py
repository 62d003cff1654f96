"""The sections `encoder`, `detector` and `synthesis` of the parameters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from backdrop.config.sections import Count, Fraction, Positive, Section

OLDER: dict[str, dict[str, Any]] = {
    "detector": {"zero_start": True},
    "synthesis": {"divide_mask": True, "mask_start": None},
}
"""What model folders mean that were written before these keys were there."""


class EncoderParams(Section):
    """The section `encoder`."""

    backbone: Literal["resnet18", "efficientnet_lite0"]
    weights: str = Field(min_length=1)
    perceptual: str = Field(min_length=1)


class DetectorParams(Section):
    """The section `detector`."""

    input: Count
    grid: Count
    scale: tuple[Fraction, Fraction]
    offset: Positive
    offset_unit: Literal["box", "cell"]
    zero_start: bool

    @model_validator(mode="after")
    def _ordered(self) -> DetectorParams:
        if not 0 < self.scale[0] < self.scale[1]:
            raise ValueError(f"detector.scale must be [min, max] with 0 < min < max, not {list(self.scale)}")
        if self.input % 16:
            raise ValueError(f"detector.input must be a multiple of the stride 16, not {self.input}")
        if self.grid not in (1, self.input // 16):
            raise ValueError(f"detector.grid must be input / 16 = {self.input // 16}, or 1, not {self.grid}")
        return self


class SynthesisParams(Section):
    """The section `synthesis`."""

    crop: Literal[32, 64, 128, 256]
    encoder: Literal["resnet18", "resnet50"]
    hidden: tuple[Count, Count]
    linears: Literal[1, 2]
    decoder: list[Count] = Field(min_length=1)
    window: Annotated[float, Field(ge=2)]
    skip: bool
    divide_mask: bool
    mask_start: Annotated[float, Field(gt=0, lt=1)] | None
