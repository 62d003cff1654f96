"""Parameters of the recipe for the motion network."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from backdrop.config.sections import Count, CountOrZero, Positive, Section, StageParams
from backdrop.run.compute import ComputeParams


class CollageParams(Section):
    """The file `recipes/motion/params.yaml`.

    Attributes:
        samples: rendered frames to learn from; held: further ones, to watch by.
        iterations, batch, rate: of training.
        seed: of samples and training.
    """

    samples: Count
    held: Annotated[int, Field(ge=1)]
    iterations: Count
    batch: Count
    rate: Positive
    seed: CountOrZero


class CollageStage(StageParams):
    """What the recipe reads."""

    collage: CollageParams
    compute: ComputeParams
