"""What moves outside of the region of interest is no subject: from the camera's motion to the scores."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from backdrop.flow.parameters import FlowParams
from backdrop.flow.stage import FlowFolders, flow_all
from backdrop.frames.stage import extract_all
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import encode_png
from backdrop.io.masks import MaskArchive, Predictions
from backdrop.learn.training_frames import TrainingFrames
from backdrop.measures import jaccard
from backdrop.motion.border_layers import border_layers
from backdrop.motion.evidence import flow_evidence
from backdrop.motion.flow_field import FlowArchive
from backdrop.motion.homography import keypoints, load_homographies
from backdrop.motion.mog2 import Mog2
from backdrop.motion.neighbors import StabilizedSequence
from backdrop.networks.predictor import Predictor
from backdrop.networks.student import Student, StudentNetwork
from backdrop.refine.stage import RefineFolders, refine_all
from backdrop.score.table import score_all
from backdrop.segment.stage import SegmentFolders, segment_all
from backdrop.stabilize.stage import stabilize_all, stabilize_sequence
from backdrop.student.camera import background_keypoints
from backdrop.student.parameters import StudentFolders, StudentStage
from backdrop.student.rounds import SelfTraining
from backdrop.student.targets import IGNORED
from backdrop.thresholds import choose_threshold
from backdrop.train.background import Backgrounds
from tests.frame_archives import ImageList
from tests.frames.test_frames import section
from tests.handmade_run import score_folders
from tests.small_pipeline import small_params, write_model

WIDTH, HEIGHT, FRAMES = 128, 80, 14
LEFT, TOP = 36, 42
"""Where the corner with the distractor begins."""


def corner() -> np.ndarray:
    """True in the corner that a region of interest leaves out."""
    found = np.zeros((HEIGHT, WIDTH), bool)
    found[TOP:, LEFT:] = True
    return found


def scene(t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, small subject that walks, and a larger and faster distractor that runs to and fro in the corner."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.float32), (0, 0), 2)
    image = np.clip((image - 128) * 5 + 128, 0, 255).astype(np.uint8)
    masks = []
    runs_to = LEFT + 6 + 6 * abs(t % 20 - 10)
    for left, top, side, color in ((8 + 4 * t, 12, 14, (230, 30, 30)), (runs_to, TOP + 8, 24, (30, 30, 230))):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[top : top + side, left : left + side] = True
        image[mask] = color
        masks.append(mask)
    return image, masks[0], masks[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Frames, homographies and flow of the scene, as the stages make them: without a region of interest and with it."""
    root = tmp_path_factory.mktemp("regions")
    for t in range(FRAMES):
        image, subject, distractor = scene(t)
        truth = (subject | distractor) * np.uint8(255)
        files = {f"videos/cage/{t:03d}.png": image, f"videos/masks/cage/{t:03d}.png": truth}
        for name, pixels in {**files, "roi.png": ~corner() * np.uint8(255)}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(encode_png(pixels))
    for name, roi in (("whole", None), ("region", str(root / "roi.png"))):
        out = root / name
        extract_all(section(root / "videos", roi=roi, roi_path=str(roi)), out / "frames")
        stabilize_all(out / "frames", out / "homographies", small_params().stabilize, 1)
        flow_all(FlowFolders(*(out / part for part in ("frames", "homographies", "flow"))), DIS, 1)
    return {name: root / name for name in ("whole", "region")}


DIS = FlowParams(model="dis", checkpoint=None)


def archive(run: Path) -> FrameArchive:
    return FrameArchive(run / "frames" / "cage.zip")


def pseudo_masks(run: Path, folder: Path, **changes: object) -> np.ndarray:
    """Those of the first round, (N, H, W) at the frames' size."""
    params = small_params()
    few = {"size": (WIDTH, HEIGHT), "cues": ["motion", "layers", "median", "mog2"], "neighbors": 6, "spacing": 2}
    student = params.student.model_copy(update={**few, "every": 2, "gate": 0.0, **changes})
    compute = params.compute.model_copy(update={"workers": 1, "device": "cpu", "precision": "32"})
    stage = StudentStage.model_validate(
        {"data.labels": "none", "data.path": "none", "student": student, "stabilize": params.stabilize}
        | {"seed": 3, "compute": compute}
    )
    joint = write_model(folder / "joint", student=False)
    folders = StudentFolders(joint, run / "frames", run / "homographies", folder / "log", folder / "runs")
    training = SelfTraining(stage, folders)
    training.scratch.mkdir(parents=True)
    return np.array(training.expectation.labels(0)[0])


def test_pseudo_masks_hold_the_distractor_without_a_region_and_the_subject_with_one(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    overlap: dict[str, list[list[float]]] = {name: [] for name in runs}
    for name, run in runs.items():
        labels = pseudo_masks(run, tmp_path / name)
        for t in range(4, FRAMES - 2, 2):
            _, subject, distractor = scene(t)
            found = (labels[t] > 127) & (labels[t] != IGNORED)
            overlap[name].append([jaccard(found, one) for one in (subject, distractor)])
        if name == "region":
            assert (labels[:, corner()] == IGNORED).all()
            assert (labels[::2, ~corner()] != IGNORED).mean() > 0.9, "what is inside is learned"
    whole, region = (np.mean(overlap[name], axis=0) for name in ("whole", "region"))
    assert whole[1] > 0.5 > 0.1 > whole[0]
    assert region[0] > 0.5
    assert region[1] == 0


def test_keypoints_lie_inside_and_as_many_as_there_may_be(runs: dict[str, Path]) -> None:
    frames = archive(runs["region"])
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[:, : WIDTH // 2] = True
    points = keypoints(frames.image(0), 30, region).points
    assert len(points) == 30, "the strongest of all would lie outside in part"
    assert points[:, 0].max() < WIDTH // 2 - 4
    nobody = np.zeros((20, 32), np.float32)
    assert background_keypoints(frames.image(0), nobody, 30, region).points[:, 0].max() < WIDTH // 2 - 4
    assert len(keypoints(frames.image(0), 30, np.ones_like(region))) == len(keypoints(frames.image(0), 30))


def test_the_camera_is_found_by_the_region_alone() -> None:
    """Most of the picture is a screen on which another scene passes; the wall beside it stands."""
    wall = cv2.resize(scene(0)[0], (384, 240), interpolation=cv2.INTER_CUBIC)
    region = np.zeros(wall.shape[:2], bool)
    region[:, :110] = True
    frames = ImageList([wall, np.where(region[..., None], wall, np.roll(wall, 18, axis=1))])
    params = small_params().stabilize
    whole, inside = (stabilize_sequence(frames, params, region=one)["H"][0] for one in (None, region))
    assert abs(whole[0, 2]) > 15
    np.testing.assert_allclose(inside, np.eye(3), atol=0.05)


def test_views_and_flow_know_nothing_outside(runs: dict[str, Path]) -> None:
    run = runs["region"]
    frames, homographies = archive(run), load_homographies(run / "homographies" / "cage.npz")
    sequence = StabilizedSequence(frames, homographies, (WIDTH, HEIGHT), region=frames.region)
    shift = np.array([[1, 0, -20], [0, 1, 0], [0, 0, 1]], np.float64)
    assert not sequence.laid(0, shift)[1][TOP:, LEFT - 20 :].any(), "its corner, where it is laid"
    assert sequence.laid(0, shift)[1][:TOP, : WIDTH - 20].all()
    flow, valid = FlowArchive(run / "flow" / "cage.zip").read(5)
    assert not valid[corner()].any()
    assert valid[~corner()].mean() > 0.9
    assert not flow[corner()].any()


def test_layers_of_the_background_come_from_the_regions_own_border() -> None:
    """A microscope's picture: a disk of tissue that moves, black around it. The image's border says that all stands."""
    y, x = np.mgrid[:96, :160]
    disk = (x - 80) ** 2 + (y - 48) ** 2 < 40**2
    flow = np.zeros((96, 160, 2), np.float32)
    flow[disk] = (3, 1)
    assert len(border_layers(flow)) == 1
    (layer,) = border_layers(flow, disk)
    np.testing.assert_allclose(layer[0], [3, 1], atol=0.01)
    assert border_layers(flow, np.zeros_like(disk)) == []


def test_evidence_has_nothing_outside_and_its_scale_from_inside() -> None:
    """What flickers outside neither counts nor makes what moves inside look small."""
    images = [cv2.cvtColor(scene(t)[0], cv2.COLOR_RGB2GRAY)[:64] for t in range(9)]
    region = ~corner()[:64]
    whole, inside = (flow_evidence(images.__getitem__, 4, 9, region=one) for one in (None, region))
    outside = cv2.resize((~region).astype(np.uint8), (WIDTH // 2, 32), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    assert np.abs(whole[:, :4, outside]).max() > 0
    assert not inside[:, :4, outside].any()
    assert inside[:, 4].max() <= whole[:, 4].max()
    np.testing.assert_array_equal(flow_evidence(images.__getitem__, 4, 9, region=np.ones_like(region)), whole)


def test_a_box_outside_gains_nothing_in_training(runs: dict[str, Path]) -> None:
    """Where the background is the frame itself, L_bg is 0 whatever moves; the flow image is white."""
    run, params = runs["region"], small_params()
    size = (WIDTH // 2, HEIGHT // 2)
    data = TrainingFrames(
        run / "frames", run / "flow", size, Backgrounds(params.background, run / "homographies", size)
    )
    image, flow, behind, known, flow_valid, _ = data[5]
    outside = corner()[::2, ::2]
    assert (image == behind)[:, outside].all()
    assert (image != behind)[:, ~outside].any()
    assert known[0, outside].all()
    assert flow_valid
    assert flow[:, outside].min() > 240


def test_a_subject_inside_counts_though_more_speaks_for_one_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    _, subject, distractor = scene(5)
    soft = np.where(distractor, 0.9, np.where(subject, 0.7, 0)).astype(np.float32)
    student = Student(StudentNetwork([4]), (WIDTH, HEIGHT), 0, torch.device("cpu"))
    monkeypatch.setattr(student, "raw", lambda images: [soft for _ in images])
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert not student.soft([image])[0][subject].any()
    found = student.soft([image], region=~corner()[::2, ::2])[0]
    assert (found[subject] > 0.5).all()
    assert not found[corner()].any()


@pytest.mark.parametrize("with_student", [True, False])
def test_predictions_keep_to_the_region(with_student: bool, tmp_path: Path) -> None:
    predictor = Predictor.load(write_model(tmp_path / "model", with_student), "cpu")
    image, region = scene(4)[0], ~corner()
    region[:, :40] = False
    whole, inside = predictor.predict(image), predictor.predict(image, region=region)
    assert whole.mask[~region].any()
    assert not inside.mask[~region].any()
    centers = (inside.boxes[..., :2] + 1) / 2 * (WIDTH, HEIGHT)
    column, row = (centers[..., k].astype(int).clip(0, (WIDTH, HEIGHT)[k] - 1) for k in (0, 1))
    assert (inside.p[~region[row, column]] == 0).all()
    assert inside.p.sum() == pytest.approx(1, abs=1e-5)
    nowhere = np.zeros_like(region)
    nowhere[0, 0] = True
    np.testing.assert_allclose(predictor.predict(image, region=nowhere).p, whole.p)


def test_segment_refine_and_score_leave_out_what_is_outside(runs: dict[str, Path], tmp_path: Path) -> None:
    params, run = small_params(), runs["region"]
    paths = {name: tmp_path / name for name in ("predictions", "predictions_paper", "masks", "masks_paper")}
    model = write_model(tmp_path / "model")
    segment = SegmentFolders(model, run / "frames", paths["predictions"], paths["predictions_paper"])
    segment_all(segment, params.segment.model_copy(update={"temporal": 1}), 1, "cpu", choose_threshold)
    for kind in ("", "_paper"):
        refine = RefineFolders(run / "frames", paths[f"predictions{kind}"], paths[f"masks{kind}"])
        refine_all(refine, params.crf, 0.3, 1)
        (paths[f"masks{kind}"] / "threshold.json").write_bytes(
            (paths[f"predictions{kind}"] / "threshold.json").read_bytes()
        )
        soft = Predictions(paths[f"predictions{kind}"] / "cage.zip")
        final = MaskArchive(paths[f"masks{kind}"] / "cage.zip")
        for t in range(FRAMES):
            assert not soft.gray(t)[corner()].any()
            assert not final.gray(t)[corner()].any()
    folders = score_folders(run).__dict__ | paths
    evaluation = score_all(type(score_folders(run))(**folders), "videos", 1)
    rows = evaluation.per_frame.set_index(["frame", "result"])
    final = MaskArchive(paths["masks"] / "cage.zip")
    for t in (0, 7):
        subject, found = scene(t)[1], final.gray(t) > 127
        assert rows.loc[(t, "method"), "J"] == pytest.approx((found & subject).sum() / (found | subject).sum())
    best = rows.xs("flow_best_threshold", level="result")["J"]
    assert best.mean() > 0.4, "the distractor is the largest thing that moves, and would be this baseline's mask"


def test_mog2_takes_the_largest_blob_of_the_region(runs: dict[str, Path]) -> None:
    run = runs["region"]
    frames, homographies = archive(run), load_homographies(run / "homographies" / "cage.npz")
    whole, inside = (Mog2(frames, homographies, one).mask(6) for one in (None, frames.region))
    assert whole[corner()].any()
    assert not inside[corner()].any()
    assert inside[scene(6)[1]].mean() > 0.3
