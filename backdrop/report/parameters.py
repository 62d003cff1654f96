"""What the stage report reads of the parameters."""

from __future__ import annotations

from typing import Any

from backdrop.config.sections import Key, StageParams


class ReportStage(StageParams):
    """What the page shows of `params.yaml`. (`compute` may be that of an earlier run.)"""

    seed: int
    lambda_: float = Key("lambda")
    footage: dict[str, Any]
    stabilize: dict[str, Any]
    flow: dict[str, Any]
    encoder: dict[str, Any]
    inpainter: dict[str, Any]
    detector: dict[str, Any]
    synthesis: dict[str, Any]
    sampling: dict[str, Any]
    loss: dict[str, Any]
    background: dict[str, Any]
    train: dict[str, Any]
    student: dict[str, Any]
    segment: dict[str, Any]
    crf: dict[str, Any]
    data: dict[str, Any]
