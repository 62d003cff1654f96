"""What the stage stabilize reads of the parameters."""

from __future__ import annotations

from backdrop.config.sections import StageParams
from backdrop.motion.parameters import StabilizeParams
from backdrop.run.compute import ComputeParams


class StabilizeStage(StageParams):
    """What the stage stabilize reads."""

    stabilize: StabilizeParams
    compute: ComputeParams
