"""The section `segment` of the parameters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from backdrop.config.sections import Count, Fraction, Section, StageParams
from backdrop.run.compute import ComputeParams


class SegmentParams(Section):
    """The section `segment`."""

    threshold: Fraction | None
    temporal: Annotated[int, Field(ge=0, le=16)]
    batch: Count
    paper: Literal["scored", "all"]


class SegmentStage(StageParams):
    """What the stage segment reads."""

    segment: SegmentParams
    compute: ComputeParams
