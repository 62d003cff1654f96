"""What the stage score reads of the parameters."""

from __future__ import annotations

from backdrop.config.sections import CountOrZero, Key, StageParams
from backdrop.run.compute import ComputeParams


class ScoreStage(StageParams):
    """What the stage score reads."""

    layout: str = Key("data.layout")
    seed: CountOrZero
    compute: ComputeParams
