"""The section `student` of the parameters, and what the stage student reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from backdrop.config.sections import Count, CountOrZero, Fraction, Key, Positive, Section, Size, StageParams
from backdrop.crf.parameters import CRFParams
from backdrop.motion.parameters import StabilizeParams
from backdrop.run.compute import ComputeParams


class StudentParams(Section):
    """The section `student`."""

    rounds: CountOrZero
    size: Size
    channels: list[Count] = Field(min_length=2)
    iterations: Count
    batch: Annotated[int, Field(ge=2)]
    rate: Positive
    decay: bool
    every: Count
    subjects: Annotated[int, Field(ge=1, le=16)]
    cues: list[Literal["motion", "layers", "median", "mog2", "fast_motion", "nlc", "prior"]] = Field(min_length=1)
    prior: str | None
    consensus: Annotated[float, Field(ge=0, le=8)]
    neighbors: Annotated[int, Field(ge=2)]
    spacing: Count
    refit: bool
    parallax: bool
    resting: bool
    gate: Fraction
    memory: Fraction
    hard_from: Count
    ignore: tuple[Fraction, Fraction]
    guide: Fraction
    crf: CRFParams
    log_every: Count
    checkpoint_every: Count

    @model_validator(mode="after")
    def _ordered(self) -> StudentParams:
        if self.ignore[0] > self.ignore[1]:
            raise ValueError(f"student.ignore must be [low, high] with low <= high, not {list(self.ignore)}")
        if ("prior" in self.cues) != (self.prior is not None):
            raise ValueError("student.prior names a model if, and only if, student.cues holds prior")
        if self.crf.enabled == "auto":
            raise ValueError("student.crf.enabled is true or false: there are no masks yet by which to tell")
        return self


class StudentStage(StageParams):
    """What the stage student reads."""

    labels: str = Key("data.labels")
    footage: str = Key("data.path")
    student: StudentParams
    stabilize: StabilizeParams
    seed: CountOrZero
    compute: ComputeParams


@dataclass(frozen=True)
class StudentFolders:
    """What the stage student reads, and where its curves and resume states go; its model folder stands apart.

    Attributes:
        joint: model folder of the stage train.
        checkpoints: holds, until the end, the resume state and the E-step's files.
        labels: folder or file of people's labels of some frames; None: there are none.
    """

    joint: Path
    frames: Path
    homographies: Path
    log: Path
    checkpoints: Path
    labels: Path | None = None
