"""The section `inpainter` of the parameters, and what the stage inpaint reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from backdrop.config.sections import Count, CountOrZero, Fraction, Key, Positive, Section, Size, StageParams, Weight
from backdrop.run.compute import ComputeParams


class InpainterParams(Section):
    """The section `inpainter`."""

    channels: list[Count] = Field(min_length=2)
    iterations: Count
    batch: Count
    rate: Positive
    decay: bool
    start_color: bool
    perceptual: Weight
    hole: tuple[Fraction, Fraction]
    holes: Count


class InpaintStage(StageParams):
    """What the stage inpaint reads."""

    inpainter: InpainterParams
    background_kind: str = Key("background.kind")
    backbone: str = Key("encoder.backbone")
    perceptual_weights: str = Key("encoder.perceptual")
    size: Size = Key("train.size")
    seed: CountOrZero
    compute: ComputeParams


@dataclass(frozen=True)
class InpaintFolders:
    """What the stage inpaint reads, and where its curves and resume states go; its model folder stands apart."""

    frames: Path
    flow: Path
    log: Path
    checkpoints: Path
