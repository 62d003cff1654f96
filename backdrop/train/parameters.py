"""The sections `sampling`, `loss`, `train` and `background` of the parameters, and the folders of the stage train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from backdrop.config.sections import Count, CountOrZero, Fraction, Key, Positive, Section, Size, StageParams, Weight
from backdrop.networks.parameters import DetectorParams, EncoderParams, SynthesisParams
from backdrop.run.compute import ComputeParams


class SamplingParams(Section):
    """The section `sampling`."""

    kind: Literal["importance", "uniform", "gumbel", "exact"]
    epsilon: Annotated[float, Field(gt=0, lt=0.01)]
    cells: Count
    baseline: Literal["none", "leave_one_out"]
    temperature: Positive

    @model_validator(mode="after")
    def _baseline_needs_cells(self) -> SamplingParams:
        if self.baseline == "leave_one_out" and (self.cells < 2 or self.kind != "importance"):
            raise ValueError("sampling.baseline=leave_one_out needs sampling.kind=importance and sampling.cells >= 2")
        return self


class LossParams(Section):
    """The section `loss`."""

    alpha: Weight
    alpha_flow: Weight
    beta: Weight
    beta_flow: Weight
    gamma: Weight
    eta: Weight
    zeta: Weight
    p_prior: Literal["none", "l1", "l2", "l2_selected", "margin"]
    mask_prior: Literal["none", "l1", "l2", "v"]
    bg_perceptual: bool
    disentangled: bool
    hole_margin: Weight
    area: Literal["box", "hole"]
    area_outside: bool
    p_learns: Literal["background", "reconstruction"]
    whole_background: bool
    autoencoder: Weight
    scale_prior: Weight
    scale_target: Fraction
    offset_prior: Weight


class TrainParams(Section):
    """The section `train`."""

    size: Size
    iterations: Count
    batch: Annotated[int, Field(ge=2)]
    rate: Positive
    decoder_rate: Positive
    box_rate: Positive
    decay: bool
    augment: bool
    pretrain_iterations: CountOrZero
    detector_iterations: CountOrZero
    synthesis_iterations: CountOrZero
    box_start: Weight
    offset_fixed: CountOrZero
    box_fixed: CountOrZero
    window_mask: CountOrZero
    log_every: Count
    overlay_every: CountOrZero
    checkpoint_every: Count


class BackgroundParams(Section):
    """The section `background`."""

    kind: Literal["inpaint", "median", "known", "auto"]
    file: str | None
    masks: str | None
    hole_only: bool
    neighbors: Annotated[int, Field(ge=2)]
    spacing: Count
    tolerance: Annotated[int, Field(ge=0, le=4)]

    @model_validator(mode="after")
    def _file_if_known(self) -> BackgroundParams:
        if (self.kind == "known") != (self.file is not None):
            raise ValueError("background.file belongs to background.kind=known, which needs it")
        return self

    @model_validator(mode="after")
    def _masks_of_neighbors(self) -> BackgroundParams:
        if self.masks is not None and self.kind not in ("median", "auto"):
            raise ValueError("background.masks belongs to background.kind=median or auto, which look at neighbors")
        return self


class TrainStage(StageParams):
    """What the stage train reads."""

    lambda_: float = Key("lambda")
    seed: CountOrZero
    encoder: EncoderParams
    detector: DetectorParams
    synthesis: SynthesisParams
    sampling: SamplingParams
    loss: LossParams
    background: BackgroundParams
    train: TrainParams
    compute: ComputeParams


@dataclass(frozen=True)
class TrainFolders:
    """What the stage train reads, and where its curves and resume states go; its model folder stands apart."""

    frames: Path
    homographies: Path
    flow: Path
    inpainter_rgb: Path
    inpainter_flow: Path
    log: Path
    checkpoints: Path
