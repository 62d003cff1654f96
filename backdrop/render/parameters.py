"""The section `footage` of the parameters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from backdrop.config.sections import Count, CountOrZero, Key, Positive, Section, Size, StageParams
from backdrop.run.compute import ComputeParams


class FootageParams(Section):
    """The section `footage`."""

    size: Size
    fps: Positive
    frames: Annotated[int, Field(ge=4)]
    train: Count
    val: CountOrZero
    test: CountOrZero
    modes: list[Literal["static", "ptz", "handheld"]] = Field(min_length=1)
    places: Count | None
    seed: CountOrZero


class RenderStage(StageParams):
    """What the stage render reads."""

    footage: FootageParams
    layout: str = Key("data.layout")
    compute: ComputeParams
