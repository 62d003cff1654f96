"""The parameters of the pipeline: one pydantic model for each section of `params.yaml`.

Nothing here has a default value: `conf/` is the only owner of the values, and a key that is
missing, unknown or out of range is an error. `load_params` raises all problems at once.

`python -m backdrop.params [OVERRIDE...]` composes params.yaml from conf/, as `dvc exp run -S OVERRIDE` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backdrop.errors import BackdropError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Size = tuple[Annotated[int, Field(ge=16, le=16384)], Annotated[int, Field(ge=16, le=16384)]]

LAYOUT_NAMES = (
    "synthetic",
    "videos",
    "davis",
    "ski_ptz",
    "handheld190k",
    "fs_singles",
    "h36m",
    "cdnet",
    "bms",
)


class Section(BaseModel):
    """A section of `params.yaml`: every key required, no other key allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataParams(Section):
    """Where the footage lies and how its frames are stored (stage frames)."""

    layout: Literal[LAYOUT_NAMES] = Field(description="How the files under `root` are laid out.")  # type: ignore[valid-type]
    root: str = Field(min_length=1, description="Folder of the footage, absolute or relative to the repository.")
    path: str = Field(
        description="`root`, absolute where it leads out of the repository; composed from it, so that experiments find "
        "it in their temporary checkouts."
    )
    size: Size | None = Field(description="[W, H] of the stored frames in pixels; null keeps the source's own.")
    every: Count = Field(description="Keep every n-th frame.")
    limit: Annotated[int, Field(ge=2)] | None = Field(description="At most this many frames a sequence; null: all.")
    protocol: Literal["self", "held_out"] = Field(
        description="self: each sequence is trained on and segmented, as the papers do on DAVIS; "
        "held_out: the layout's own splits, or the globs in `val` and `test`."
    )
    val: list[str] = Field(description="Globs over sequence names for the validation split (held_out).")
    test: list[str] = Field(description="Globs over sequence names for the test split (held_out).")
    only: list[str] = Field(description="Globs over sequence names: the others are left out; empty: all are taken.")
    strict: bool = Field(description="Turn a skipped or damaged video into an error.")
    quality: Annotated[int, Field(ge=1, le=100)] = Field(description="JPEG quality of the stored frames.")

    @model_validator(mode="after")
    def _path_of_root(self) -> DataParams:
        leads_out = ".." in Path(self.root).parts
        if not (Path(self.path).is_absolute() if leads_out else self.path == self.root):
            raise ValueError(
                f"data.path is {self.path}, which is not where data.root={self.root} lies: it is composed from "
                "data.root; run `make params` or `dvc exp run`, or change both"
            )
        return self


class FootageParams(Section):
    """The embedded footage (stage render), rendered when `data.layout` is synthetic."""

    size: Size = Field(description="[W, H] of the rendered videos in pixels.")
    fps: Positive = Field(description="Frames a second.")
    frames: Annotated[int, Field(ge=4)] = Field(description="Frames of each video.")
    train: Count = Field(description="Number of training videos.")
    val: CountOrZero = Field(description="Number of validation videos (subject and trajectory of their own).")
    test: CountOrZero = Field(description="Number of test videos (subject and trajectory of their own).")
    modes: list[Literal["static", "ptz", "handheld"]] = Field(min_length=1, description="Camera modes, taken in turn.")
    seed: CountOrZero = Field(description="Seed of the scenes, subjects and trajectories.")


class StabilizeParams(Section):
    """SIFT homographies between a frame and its neighbor (stage stabilize)."""

    features: Annotated[int, Field(ge=16)] = Field(description="Most SIFT keypoints a frame.")
    ratio: Annotated[float, Field(gt=0, lt=1)] = Field(description="Ratio test: nearest over second-nearest distance.")
    threshold: Positive = Field(description="MAGSAC inlier threshold in pixels.")
    min_inliers: Annotated[int, Field(ge=4)] = Field(description="Fewer inliers make a pair invalid.")
    max_scale: Annotated[float, Field(gt=1)] = Field(description="Largest plausible local change of scale.")
    gap: Count = Field(description="Frame t is paired with frame t + gap (t - gap at the end).")


class FlowParams(Section):
    """Optical flow of the stabilized pairs (stage flow)."""

    model: str = Field(min_length=1, description="dis (OpenCV, no weights) or any ptlflow model, e.g. flownet2.")
    checkpoint: str | None = Field(description="ptlflow's name of published weights, or a local file; null for dis.")

    @model_validator(mode="after")
    def _needs_checkpoint(self) -> FlowParams:
        if self.model != "dis" and self.checkpoint is None:
            raise ValueError(
                f"flow.model {self.model} needs flow.checkpoint: a name ptlflow publishes "
                "(things for flownet2) or a local file; flow.model=dis needs none"
            )
        return self


class EncoderParams(Section):
    """Weights of the ResNet encoders of D and S and of the features phi."""

    weights: str = Field(
        min_length=1,
        description="none, imagenet (torchvision's own download), or a folder of local files "
        "resnet18.safetensors / resnet50.safetensors (or .pth state dicts).",
    )


class InpainterParams(Section):
    """The inpainting U-Net and its training (stage inpaint, once for rgb, once for flow)."""

    channels: list[Count] = Field(min_length=2, description="U-Net channels, finest level first (papers: 8..256).")
    iterations: Count = Field(description="Training iterations (papers: 200,000).")
    batch: Count = Field(description="Images an iteration (papers: 16).")
    rate: Positive = Field(description="Adam's learning rate (papers: 1e-3).")
    decay: bool = Field(description="Cosine decay of the rate to zero (papers: no).")
    perceptual: Weight = Field(description="Weight of the perceptual term beside L2 (2020: 1:2).")
    hole: tuple[Fraction, Fraction] = Field(
        description="Smallest and largest side of a random hole, share of the image."
    )
    holes: Count = Field(description="Random holes an image.")


class DetectorParams(Section):
    """The detector D: a grid of cells, each with a probability and a box."""

    input: Count = Field(description="Side of the square image D sees, in pixels (papers: 128).")
    grid: Count = Field(
        description="Cells a side: input / 16, the trunk's stride (papers: 8); or 1: one box for the image, regressed "
        "from pooled features, with p = 1 (the ablation of 2022, Fig. 11d)."
    )
    scale: tuple[Fraction, Fraction] = Field(description="Smallest and largest box side, share of the image.")
    offset: Positive = Field(description="Limit of the offset of a box from its cell, in `offset_unit`.")
    offset_unit: Literal["box", "cell"] = Field(description="box: box widths (2021, 2022); cell: grid cells.")

    @model_validator(mode="after")
    def _ordered(self) -> DetectorParams:
        if not 0 < self.scale[0] < self.scale[1]:
            raise ValueError(f"detector.scale must be [min, max] with 0 < min < max, not {list(self.scale)}")
        if self.input % 16:
            raise ValueError(f"detector.input must be a multiple of the stride 16, not {self.input}")
        if self.grid not in (1, self.input // 16):
            raise ValueError(f"detector.grid must be input / 16 = {self.input // 16}, or 1, not {self.grid}")
        return self


class SynthesisParams(Section):
    """The synthesis network S: crop -> foreground and mask."""

    crop: Literal[32, 64, 128, 256] = Field(description="Side of the square crop in pixels (papers: 128).")
    encoder: Literal["resnet18", "resnet50"] = Field(description="Encoder (papers: resnet50).")
    hidden: tuple[Count, Count] = Field(description="Bottleneck: spatial code and replicated code (2022: 600 + 256).")
    linears: Literal[1, 2] = Field(description="Linear layers the spatial code passes (2020: 2).")
    decoder: list[Count] = Field(min_length=1, description="Decoder channels, finest stage first (2022: 64..512).")
    window: Annotated[float, Field(ge=2)] = Field(
        description="Exponent of the focal window (papers: 4; larger: fuller)."
    )
    skip: bool = Field(description="U-Net skip connections from encoder to decoder (papers: no).")


class SamplingParams(Section):
    """How cells are drawn (002 section 3.4)."""

    kind: Literal["importance", "uniform", "gumbel", "exact"] = Field(
        description="importance (the papers'), uniform, gumbel (softmax relaxation), exact (sum over all live cells)."
    )
    epsilon: Annotated[float, Field(gt=0, lt=0.01)] = Field(description="Floor of q in Eq. 10.")
    cells: Count = Field(description="Cells drawn an image for L_bg (papers: 1).")
    baseline: Literal["none", "leave_one_out"] = Field(
        description="Variance-reducing baseline of L_bg: the mean of the other drawn cells; expectation unchanged."
    )
    temperature: Positive = Field(description="Temperature of the Gumbel softmax (2022: 0.1).")

    @model_validator(mode="after")
    def _baseline_needs_cells(self) -> SamplingParams:
        if self.baseline == "leave_one_out" and (self.cells < 2 or self.kind != "importance"):
            raise ValueError("sampling.baseline=leave_one_out needs sampling.kind=importance and sampling.cells >= 2")
        return self


class LossParams(Section):
    """Weights and variants of the losses (002 section 3.3)."""

    alpha: Weight = Field(description="Weight of L_bg (papers: 0.1).")
    alpha_flow: Weight = Field(description="Weight of L_bg on flow images (papers: 0.1); 0 trains without flow.")
    beta: Weight = Field(description="Weight of L_fg (papers: 1).")
    beta_flow: Weight = Field(
        description="Weight of L_fg on flow images: what moves outside of the mask costs (papers: 0); needs alpha_flow."
    )
    gamma: Weight = Field(description="Weight of L_phi (papers: 2).")
    eta: Weight = Field(description="Weight of the mask prior (papers: 0.25).")
    zeta: Weight = Field(description="Weight of the prior on p (papers: 0.1).")
    p_prior: Literal["none", "l1", "l2", "l2_selected"] = Field(
        description="Prior on p: l1 (2022; constant after a softmax), l2 (2020, 2021), l2_selected (later code)."
    )
    mask_prior: Literal["none", "l1", "l2", "v"] = Field(description="Prior on the mask (papers: v, Eq. 6).")
    bg_perceptual: bool = Field(description="L_bg with a perceptual term (2020, 2021).")
    disentangled: bool = Field(
        description="Each loss reaches its own networks only (the method). False: all reach all."
    )
    hole_margin: Weight = Field(description="The erased box is this much larger than the box (2022: 0.15).")
    area: Literal["box", "hole"] = Field(
        description="Area that L_bg is divided by: the box (papers) or the erased box."
    )
    whole_background: bool = Field(
        description="L_fg sees a known background in the whole image (Algorithm 1), not inside the erased box alone."
    )
    autoencoder: Weight = Field(description="Weight of S's colors being those of the crop (papers: 0).")
    scale_prior: Weight = Field(
        description="Weight of the prior that pulls the batch-mean box scale to `scale_target`."
    )
    scale_target: Fraction = Field(description="Target of the scale prior, share of the image (later code: 0.4).")
    offset_prior: Weight = Field(description="Weight of the prior that pulls the batch-mean offset to 0.")


class TrainParams(Section):
    """The loop of joint training (stage train) and the resolution all networks train at."""

    size: Size = Field(description="[W, H] of the training resolution in pixels (papers: 640 x 360).")
    iterations: Count = Field(description="Joint iterations (papers: 100,000).")
    batch: Annotated[int, Field(ge=2)] = Field(description="Images an iteration (papers: 16).")
    rate: Positive = Field(description="Adam's learning rate (papers: 1e-3).")
    decoder_rate: Positive = Field(description="Learning rate of S's decoder (papers: 1e-4).")
    box_rate: Positive = Field(description="Learning rate of the detector's box outputs (papers: that of the rest).")
    decay: bool = Field(description="Cosine decay of the rates to zero (papers: no).")
    augment: bool = Field(
        description="Random changes of color and handedness of image and background together (papers: none)."
    )
    detector_iterations: CountOrZero = Field(description="Iterations before, in which only p learns (papers: 0).")
    synthesis_iterations: CountOrZero = Field(
        description="Iterations before, in which S learns as an auto-encoder on random crops (papers: 0)."
    )
    box_start: Weight = Field(
        description="First size of all boxes, in times what moves in the flow; 0: the middle of detector.scale."
    )
    offset_fixed: CountOrZero = Field(description="Joint iterations in which boxes do not learn to move (papers: 0).")
    box_fixed: CountOrZero = Field(description="Joint iterations in which boxes do not learn their size (papers: 0).")
    window_mask: CountOrZero = Field(
        description="Joint iterations in which the focal window stands for the mask (papers: 0)."
    )
    log_every: Count = Field(description="Iterations between two points of the logged curves.")
    overlay_every: CountOrZero = Field(description="Iterations between two logged overlays; 0: none.")
    checkpoint_every: Count = Field(description="Iterations between two resume checkpoints.")


class CRFParams(Section):
    """The dense CRF (stage refine)."""

    enabled: bool = Field(description="false: the thresholded soft mask is the final mask.")
    unary: Literal["thresholded", "soft"] = Field(
        description="Unary from the thresholded mask (papers) or the soft one."
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(description="Probability a thresholded label is given.")
    iterations: Count = Field(description="Mean-field iterations (papers: 5).")
    reference_diagonal: Positive | None = Field(
        description="Diagonal in pixels of the images for which both sxy are meant (373: 320 x 192); they grow and "
        "shrink with an image's own diagonal. null: pixels of whatever image comes (papers)."
    )
    gaussian_sxy: Positive = Field(description="Smoothness kernel, pixels (default of the CRF: 3).")
    gaussian_compat: Weight = Field(description="Smoothness kernel, weight (3).")
    bilateral_sxy: Positive = Field(description="Appearance kernel, pixels (80).")
    bilateral_srgb: Positive = Field(description="Appearance kernel, gray levels (13).")
    bilateral_compat: Weight = Field(description="Appearance kernel, weight (10).")


class StudentParams(Section):
    """Self-training rounds (stage student): cues, pseudo-masks, and the single-image student."""

    rounds: CountOrZero = Field(description="Rounds of E-step and training; 0: the papers' model segments.")
    size: Size = Field(description="[W, H] in pixels at which cues are computed and the student works.")
    channels: list[Count] = Field(min_length=2, description="Channels of the student's U-Net, finest level first.")
    iterations: Count = Field(description="Training iterations a round.")
    batch: Annotated[int, Field(ge=2)] = Field(description="Images an iteration.")
    rate: Positive = Field(description="AdamW's learning rate.")
    decay: bool = Field(description="Cosine decay of the rate to zero, in each round.")
    every: Count = Field(description="Pseudo-masks and training take every n-th stored frame.")
    subjects: Annotated[int, Field(ge=1, le=16)] = Field(
        description="Subjects that a frame may show at once; the masks hold up to so many parts."
    )
    cues: list[Literal["flow", "median", "mog2", "mosaic"]] = Field(min_length=1, description="Cues that are fused.")
    consensus: Annotated[float, Field(ge=0, le=8)] = Field(
        description="A sequence's cues weigh by their agreement with one another to this power; 0: all alike."
    )
    gaps: list[Count] = Field(min_length=1, description="Gaps of the flow cue in frames; multiples of stabilize.gap.")
    neighbors: Annotated[int, Field(ge=2)] = Field(description="Frames around a frame that make its background.")
    spacing: Count = Field(description="Frames between two of them: a slow subject must uncover what is behind it.")
    refit: bool = Field(description="From round 2 on, homographies from the background's keypoints alone.")
    parallax: bool = Field(description="From round 2 on, neighbors are warped by the background's flow as well.")
    gate: Fraction = Field(description="Weight of D's box in the choice of the component; 0: none.")
    memory: Fraction = Field(description="Share of the student's own mask in the evidence, from round 2 on.")
    hard_from: Count = Field(description="Round from which pseudo-masks are hardened by `ignore`.")
    ignore: tuple[Fraction, Fraction] = Field(
        description="Soft pseudo-masks below become background, above foreground; between them they weigh nothing."
    )
    guide: Fraction = Field(description="Radius of the guided filter at full size, share of the diagonal; 0: none.")
    crf: CRFParams = Field(description="The mild CRF inside the pseudo-masks; as the section crf.")
    log_every: Count = Field(description="Iterations between two points of the logged curves.")
    checkpoint_every: Count = Field(description="Iterations between two resume checkpoints.")

    @model_validator(mode="after")
    def _ordered(self) -> StudentParams:
        if self.ignore[0] > self.ignore[1]:
            raise ValueError(f"student.ignore must be [low, high] with low <= high, not {list(self.ignore)}")
        return self


class BackgroundParams(Section):
    """What stands for the background of a frame in joint training (Algorithm 1, exists(B))."""

    kind: Literal["inpaint", "median", "known", "auto"] = Field(
        description="inpaint (the papers'); median of stabilized neighbors; known: an image file, for a camera that "
        "stands still; auto: the median where neighbors show enough, the inpainter elsewhere."
    )
    file: str | None = Field(description="Image of the empty scene, for kind known.")
    neighbors: Annotated[int, Field(ge=2)] = Field(description="Frames that make the median.")
    spacing: Count = Field(description="Frames between two of them: a slow subject must uncover what is behind it.")
    tolerance: Annotated[int, Field(ge=0, le=4)] = Field(
        description="Pixels that a known background may be off: the nearest color within them counts (papers: 0)."
    )

    @model_validator(mode="after")
    def _file_if_known(self) -> BackgroundParams:
        if (self.kind == "known") != (self.file is not None):
            raise ValueError("background.file belongs to background.kind=known, which needs it")
        return self


class SegmentParams(Section):
    """Inference (stage segment)."""

    threshold: Fraction | None = Field(
        description="null: chosen on validation sequences with ground truth, 0.5 without; a number: that number."
    )
    batch: Count = Field(description="Frames a forward pass.")


class ComputeParams(Section):
    """How it runs. No key here can change a result beyond rounding, so no stage depends on it."""

    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "32", "bf16"] = Field(
        description="Arithmetic of the networks in training: auto takes bf16 where the processor has it."
    )
    compile: bool = Field(description="torch.compile of the networks in training: minutes before the first iteration.")
    devices: Count = Field(description="Processes that train together on a machine, a GPU each; they share each batch.")
    nodes: Count = Field(description="Machines that train together; see docs/scaling.md for how they are started.")
    workers: CountOrZero = Field(
        description="Processes over sequences and pieces of them; 0: all cores. A cluster's workers are its own."
    )
    backend: Literal["loky", "dask", "ray"] = Field(
        description="Who runs them: loky (processes of this machine), or a Dask or Ray cluster (docs/scaling.md)."
    )
    address: str | None = Field(
        description="Of the cluster: tcp://host:8786 (dask), host:6379 or auto (ray); "
        "null: one of this machine's cores, of `workers` processes, for the time of a stage."
    )

    @model_validator(mode="after")
    def _loky_is_here(self) -> ComputeParams:
        if self.backend == "loky" and self.address is not None:
            raise ValueError(
                f"compute.backend=loky has no compute.address (given: {self.address!r}): "
                "set compute.backend to dask or ray, or compute.address to null"
            )
        return self


class Params(Section):
    """The whole of `params.yaml`."""

    seed: CountOrZero = Field(description="Seed of everything that is drawn in training.")
    lambda_: Annotated[float, Field(gt=0, lt=1)] = Field(
        alias="lambda",
        description="Threshold of the v-shaped mask prior, mean of the mask over the image (Eq. 6).",
    )
    data: DataParams
    footage: FootageParams
    stabilize: StabilizeParams
    flow: FlowParams
    encoder: EncoderParams
    inpainter: InpainterParams
    detector: DetectorParams
    synthesis: SynthesisParams
    sampling: SamplingParams
    loss: LossParams
    background: BackgroundParams
    train: TrainParams
    student: StudentParams
    segment: SegmentParams
    crf: CRFParams
    compute: ComputeParams

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        problems = []
        stages = {32: 2, 64: 3, 128: 4, 256: 5}[self.synthesis.crop]
        if len(self.synthesis.decoder) < stages:
            problems.append(
                f"synthesis.decoder needs at least {stages} stages for crops of {self.synthesis.crop} pixels"
            )
        if self.data.protocol == "self" and (self.data.val or self.data.test):
            problems.append("data.val and data.test belong to data.protocol=held_out")
        if self.data.layout == "synthetic" and self.data.protocol == "held_out" and not self.footage.test:
            problems.append("footage.test must be at least 1 with data.layout=synthetic and data.protocol=held_out")
        wrong = [gap for gap in self.student.gaps if gap % self.stabilize.gap]
        if wrong:
            problems.append(f"student.gaps {wrong} are no multiples of stabilize.gap {self.stabilize.gap}")
        if not 0 < self.inpainter.hole[0] <= self.inpainter.hole[1]:
            problems.append("inpainter.hole must be [min, max] with 0 < min <= max")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def validate(values: Mapping[str, Any], source: str = "params.yaml") -> Params:
    """Check a whole parameter tree.

    Raises:
        BackdropError: one message with a line for every unknown key, bad value and bad combination.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "(combination)"
            if problem["type"] == "extra_forbidden":
                lines.append(f"  {key}: unknown key; remove it or correct its spelling")
            elif problem["type"] == "missing":
                lines.append(f"  {key}: missing; `make params` composes a whole params.yaml from conf/")
            else:
                message = problem["msg"].removeprefix("Value error, ")
                lines.append(
                    f"  {key}: {message} (given: {problem['input']!r})"
                    if key[0] != "(" and not isinstance(problem["input"], dict)
                    else f"  {key}: {message}"
                )
        raise BackdropError(f"{source} has {len(lines)} problem(s):\n" + "\n".join(lines)) from None


class _Loader(yaml.SafeLoader):
    """Plain YAML without aliases: a few lines of them can stand for more values than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read; write the value out", mark)
        return super().compose_node(parent, index)


def _load(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no Unicode, or no date or number
        raise BackdropError(f"{path} is no YAML: {error}") from None


def read(path: str | Path) -> Params:
    """Read and check a parameter file.

    Raises:
        BackdropError: the file is missing, is no YAML, or holds a problem (all are named).
    """
    path = Path(path)
    try:
        values = _load(path)
    except FileNotFoundError:
        raise BackdropError(f"{path} does not exist: run from the repository's root, or `make params` first") from None
    if not isinstance(values, dict):
        raise BackdropError(f"{path} must hold a mapping of sections; `make params` composes one from conf/")
    return validate(values, str(path))


def load_params(*keys: str, path: str | Path = "params.yaml") -> SimpleNamespace:
    """What a stage reads: the named keys and no others.

    The whole file is checked, but only `keys` ("crf", "data.layout", "lambda") are on the result,
    as attributes (`lambda` as `lambda_`). A stage can thus not read a key that its `params:` in
    dvc.yaml does not name; a test holds the two lists equal.
    """
    params = read(path)
    chosen = SimpleNamespace()
    for key in keys:
        value: Any = params
        for part in key.split("."):
            value = getattr(value, "lambda_" if part == "lambda" else part)
        setattr(chosen, key.replace(".", "_") if key != "lambda" else "lambda_", value)
    return chosen


def compose(overrides: list[str], path: Path = Path("params.yaml"), conf: Path = Path("conf")) -> None:
    """Compose `path` from `conf` with Hydra, by the very function that `dvc exp run` calls, and check it."""
    from dvc.utils.hydra import compose_and_dump

    for file in sorted(conf.rglob("*.yaml")):  # Hydra would write aliases out, however many
        _load(file)
    compose_and_dump(path, str(conf.resolve()), None, "config", str(conf.resolve() / "plugins"), overrides)
    read(path)


if __name__ == "__main__":
    import sys

    try:
        compose(sys.argv[1:])
    except BackdropError as problem:
        sys.exit(f"error: {problem}")
