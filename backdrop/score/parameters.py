"""What the stage score reads of the parameters."""

from __future__ import annotations

from typing import Literal

from backdrop.config.sections import CountOrZero, Key, StageParams
from backdrop.run.compute import ComputeParams

Preset = Literal["none", "p2020", "p2021", "p2022"]
"""The paper whose numbers a run has, by the files of conf/paper/."""


class ScoreStage(StageParams):
    """What the stage score reads."""

    preset: Preset
    layout: str = Key("data.layout")
    seed: CountOrZero
    compute: ComputeParams
