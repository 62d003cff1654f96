"""The rows of the two ablation grids: the papers' method in the papers' setting, and Backdrop's own settings.

The rows of the papers are overrides of `paper=p2022 scale=ablation_papers start=aided train.batch=8`, ours the files
of conf/ablation/ at `scale=ablation`. `benchmarks.ablations` runs both.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SEEDS = (0, 1, 2)


class Group(NamedTuple):
    """Rows that are compared with each other and with `base`; `seeds` of them are run."""

    title: str
    rows: tuple[str, ...]
    base: str
    seeds: tuple[int, ...] = (0,)


class Grid(NamedTuple):
    """Groups of rows, and the overrides with which DVC composes each row.

    Attributes:
        reference: the row that most groups are compared with.
        changes: row -> its own overrides. None: the row is a file of conf/ablation/.
        columns: title -> the result in scores.json and its key; at 0 rounds `method` is D and S alone.
        results: where figures are kept.
    """

    name: str
    groups: tuple[Group, ...]
    reference: str
    common: tuple[str, ...]
    changes: dict[str, tuple[str, ...]] | None
    columns: dict[str, tuple[str, str]]
    results: Path

    def overrides(self, row: str, seed: int) -> list[str]:
        own = (f"ablation={row}",) if self.changes is None else self.changes[row]
        return [*self.common, *own, f"seed={seed}"]


JOINT = "loss.disentangled=false"
MEDIAN = ("background.kind=median", "background.hole_only=true", "background.tolerance=1")
IMAGES = ("loss.alpha_flow=0", "train.offset_fixed=300")  # where boxes learn without flow, p is lost
BOXES_LEARN = ("train.box_fixed=100",)  # sizes learn from when offsets do
ONE_CELL = ("sampling.cells=1", "sampling.baseline=none")
ONLY_BG = ("loss.beta=0", "loss.gamma=0", "loss.eta=0", "loss.autoencoder=0")
LITE = "encoder.backbone=efficientnet_lite0"

PAPERS_ROWS: dict[str, tuple[str, ...]] = {
    "flow_separated": (),
    "flow_joint": (JOINT,),
    "images_separated": IMAGES,
    "images_joint": (*IMAGES, JOINT),
    "median_flow_separated": MEDIAN,
    "median_flow_joint": (*MEDIAN, JOINT),
    "median_images_separated": (*MEDIAN, *IMAGES),
    "median_images_joint": (*MEDIAN, *IMAGES, JOINT),
    "one_cell": ONE_CELL,
    "uniform": ("sampling.kind=uniform", "sampling.baseline=none"),
    "gumbel": ("sampling.kind=gumbel", "sampling.baseline=none"),
    "boxes_learn": BOXES_LEARN,
    "boxes_learn_joint": (*BOXES_LEARN, JOINT),
    "only_bg": (*BOXES_LEARN, JOINT, *ONLY_BG),
    "direct_box": (*BOXES_LEARN, *ONE_CELL, JOINT, "detector.grid=1"),
    "p_prior_l2": ("loss.p_prior=l2",),
    "p_prior_margin": ("loss.p_prior=margin",),
    "mask_prior_none": (*IMAGES, "loss.mask_prior=none"),
    "mask_prior_l1": (*IMAGES, "loss.mask_prior=l1"),
    "mask_prior_l2": (*IMAGES, "loss.mask_prior=l2"),
    "unsupervised": (*IMAGES, "train.pretrain_iterations=300"),
    "lite0": (*IMAGES, LITE),
    "lite0_imagenet": (*IMAGES, LITE, "encoder.weights=imagenet"),
    "lambda_0005": (*IMAGES, "lambda=0.0005"),
    "lambda_001": (*IMAGES, "lambda=0.001"),
    "box_10_50": (*IMAGES, "detector.scale=[0.1,0.5]"),
    "box_20_50": (*IMAGES, "detector.scale=[0.2,0.5]"),
    "box_30_50": (*IMAGES, "detector.scale=[0.3,0.5]"),
}
"""Row -> its changes of the aided preset. Tables 3 and 4 of the papers are without flow; so are these rows."""

PAPERS = Grid(
    name="papers",
    groups=(
        Group(
            "Background x flow x gradients (inpainted, where no median is named)",
            (
                "flow_joint",
                "images_separated",
                "images_joint",
                "median_flow_separated",
                "median_flow_joint",
                "median_images_separated",
                "median_images_joint",
            ),
            base="flow_separated",
        ),
        Group("The same, three seeds", ("flow_joint", "images_separated"), base="flow_separated", seeds=SEEDS),
        Group(
            "Sampling (reference: importance, four cells, leave-one-out baseline)",
            ("one_cell", "uniform", "gumbel"),
            base="flow_separated",
        ),
        Group(
            "Boxes whose sizes learn, too; who learns from what",
            ("boxes_learn_joint", "only_bg", "direct_box"),
            base="boxes_learn",
        ),
        Group(
            "Prior on p (reference: L1, which has no gradient)", ("p_prior_l2", "p_prior_margin"), base="flow_separated"
        ),
        Group(
            "Prior on the mask, images alone (reference: v)",
            ("mask_prior_none", "mask_prior_l1", "mask_prior_l2"),
            base="images_separated",
        ),
        Group("Start without labels, images alone (reference: none)", ("unsupervised",), base="images_separated"),
        Group("Start from ImageNet, EfficientNet-Lite0, images alone (lite0: none)", ("lite0_imagenet",), base="lite0"),
        Group(
            "Lambda and box range, images alone (reference: 0.005, 20 to 80 %)",
            ("lambda_0005", "lambda_001", "box_10_50", "box_20_50", "box_30_50"),
            base="images_separated",
        ),
    ),
    reference="flow_separated",
    common=("paper=p2022", "scale=ablation_papers", "start=aided", "train.batch=8"),  # the preset sets 16
    changes=PAPERS_ROWS,
    columns={
        "boxes above .5": ("method", "box_hit50"),
        "center": ("method", "centre_hit"),
        "J before CRF": ("method_raw", "J_mean"),
        "F before CRF": ("method_raw", "F_mean"),
        "J, best threshold": ("method_best_threshold", "J_mean"),
        "J": ("method", "J_mean"),
        "F": ("method", "F_mean"),
    },
    results=Path("benchmarks/ablations_papers.json"),
)

OURS = Grid(
    name="ours",
    groups=(
        Group("Reference", (), base="none", seeds=SEEDS),
        Group(
            "Sampling (reference: importance, four cells, leave-one-out baseline)",
            ("sampling_importance_1", "sampling_uniform", "sampling_gumbel"),
            base="none",
            seeds=(0, 1),
        ),
        Group("Sampling: sum over all cells (batch of 2)", ("sampling_exact",), base="none"),
        Group("Who learns from what, with boxes that learn", ("entangled", "only_bg", "direct_box"), "boxes_learn"),
        Group("Prior on the mask (reference: v)", ("mask_prior_none", "mask_prior_l1", "mask_prior_l2"), base="none"),
        Group("Prior on p (reference: none)", ("p_prior_l1", "p_prior_l2"), base="none"),
        Group("Encoder weights (reference: none)", ("encoder_file",), base="none"),
        Group("Flow", ("flow_off",), base="none"),
        Group(
            "Ours (reference: median background with a pixel of tolerance, in the whole image; offsets learn, sizes do "
            "not; motion outside of the mask costs; colors held to the crop's; augmentation)",
            (
                "background_inpaint",
                "tolerance_off",
                "whole_background_off",
                "offsets_fixed",
                "flow_fg_off",
                "autoencoder_off",
                "augment_off",
            ),
            base="none",
        ),
        Group("CRF", ("crf_off",), base="none"),
        Group("Self-training rounds (reference: 0)", ("student_1", "student_2"), base="none"),
        Group(
            "Lambda x box range, boxes learn (boxes_learn: 0.005, 20 to 80 %)",
            tuple(f"lambda_{value}_box_{sides}" for value in ("001", "01") for sides in ("10_50", "20_80", "40_90")),
            base="boxes_learn",
        ),
    ),
    reference="none",
    common=("scale=ablation",),
    changes=None,
    columns={
        "box mAP50": ("method", "mAP50"),
        "center hit": ("method", "centre_hit"),
        "J before CRF": ("method_raw", "J_mean"),
        "J": ("method", "J_mean"),
        "F": ("method", "F_mean"),
        "threshold": ("method", "threshold"),
    },
    results=Path("benchmarks/ablations.json"),
)

GRIDS = {grid.name: grid for grid in (PAPERS, OURS)}
