"""The ONNX graph against the PyTorch module, and that module against the segmenter."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import backdrop
from backdrop.app.onnx import RANGES, Outputs, PredictorGraph, area_weights, export_onnx, extent
from backdrop.app.segmenter import Segmenter
from backdrop.errors import BackdropError
from backdrop.io.masks import box_from_mask
from backdrop.motion.blobs import near_subject
from backdrop.networks import student as networks_student
from backdrop.networks.detector import Detector
from backdrop.networks.encoder import normalize
from backdrop.networks.model_folders import save_network
from backdrop.networks.predictor import BOX_LEVEL, presence
from backdrop.networks.student import StudentNetwork, sharpen
from backdrop.networks.synthesis import SynthesisNetwork
from backdrop.video.encode import encode_video
from tests.backdrop_command import call
from tests.handmade_run import HEIGHT, WIDTH, scene
from tests.small_pipeline import DIVIDED, small_params

pytestmark = pytest.mark.usefixtures("one_thread")

NEAR = 1e-3
SIZE = (WIDTH // 2, HEIGHT // 2)  # of what D sees
GRAY = (124, 116, 104)  # nearly 0 when normalized


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two untrained model folders, one with a student: boxes and cells depend on the image, and the student's mask is
    empty for a gray image and something between empty and full for a scene."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    params = small_params()
    detector = Detector(params.detector, "none").eval()
    settings = params.synthesis.model_copy(update=DIVIDED)
    synthesis = SynthesisNetwork(settings, "none")
    student = StudentNetwork([4, 8]).eval()
    with torch.no_grad():
        detector.head.weight.mul_(1000)
        detector.box_head.weight.normal_(0, 0.1)
        for layer in student.modules():  # as they begin, little is left of the image after the last one
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.mul_(3)
        seen = student(normalize(tensor("student", np.stack(scene(1)[0]))))
        student.head[0].weight.mul_(2 / seen.std())  # type: ignore[operator]
        student.head[0].bias.fill_(-2)  # type: ignore[operator]
    sections = {"detector": params.detector, "synthesis": settings}
    config = {"size": SIZE} | {name: section.model_dump(mode="json") for name, section in sections.items()}
    networks = {"detector": detector, "synthesis": synthesis}
    save_network(root / "bare", networks, config)
    own = {"channels": [4, 8], "size": [WIDTH, HEIGHT], "guide": 0.02, "threshold": 0.35}
    save_network(root / "student", networks | {"student": student}, config | {"student": own})
    return {"bare": root / "bare", "student": root / "student"}


@pytest.fixture(scope="module")
def segmenters(folders: dict[str, Path]) -> dict[str, Segmenter]:
    return {name: Segmenter.load(folder, "cpu") for name, folder in folders.items()}


@pytest.fixture(scope="module")
def graphs(
    folders: dict[str, Path], segmenters: dict[str, Segmenter], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The files of both, one by the command and one by the function; the command's words are in a file beside."""
    out = tmp_path_factory.mktemp("graphs")
    status, text = call("onnx", "-o", out / "new" / "student.onnx", "--model", folders["student"])
    assert status == 0, text
    (out / "said").write_text(text)
    return {"student": out / "new" / "student.onnx", "bare": export_onnx(segmenters["bare"], out / "bare.onnx")}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(4, H, W, 3) uint8 of the student's size, the last all gray, that D's size is an exact half of: their pixels are
    pairs of pairs, so that no rounding tells the segmenter's image for D from the graph's."""
    small = np.tile(np.array(GRAY, np.uint8), (4, SIZE[1], SIZE[0], 1))
    for i, picture in enumerate(scene(9, seed=3)[0][::4]):
        seen = np.s_[3 + 2 * i : 28 + 3 * i, 4 + 6 * i : 40 + 7 * i]  # each in a place of its own, and so are the boxes
        small[i][seen] = cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA)[seen]
    return small.repeat(2, axis=1).repeat(2, axis=2)


def tensor(name: str, images: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> the input of the graph of that name."""
    step = 2 if name == "bare" else 1
    return torch.from_numpy(images[:, ::step, ::step].copy()).permute(0, 3, 1, 2).contiguous().float() / 255


def by_pytorch(segmenter: Segmenter, x: torch.Tensor) -> Outputs:
    with torch.inference_mode():
        return Outputs(*(value.numpy() for value in PredictorGraph(segmenter)(x)))


def by_onnxruntime(path: Path, x: torch.Tensor) -> Outputs:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == list(Outputs._fields)
    return Outputs(*session.run(None, {"image": x.numpy()}))


# ------------------------------------------------------------------------------------- graph and PyTorch


@pytest.mark.parametrize("name", ["student", "bare"])
@pytest.mark.parametrize("batch", [1, 3])
def test_onnxruntime_gives_what_pytorch_gives(
    name: str, batch: int, graphs: dict[str, Path], segmenters: dict[str, Segmenter], images: np.ndarray
) -> None:
    x = tensor(name, images)
    for part in (x[:batch], x[-batch:]):
        theirs, ours = by_onnxruntime(graphs[name], part), by_pytorch(segmenters[name], part)
        for field in Outputs._fields:
            a, b = getattr(theirs, field), getattr(ours, field)
            assert a.dtype == np.float32
            assert a.shape == b.shape
            assert len(a) == batch
            assert np.abs(a - b).max() < NEAR, field


def test_in_8_bits_the_students_mask_is_nearly_the_same_and_all_of_the_detector_is(
    graphs: dict[str, Path], folders: dict[str, Path], images: np.ndarray, tmp_path: Path
) -> None:
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image[..., ::-1])
    (tmp_path / "bad.png").write_bytes(b"no picture")  # costs itself alone
    (tmp_path / "clip").mkdir()
    encode_video(tmp_path / "clip" / "clip.mp4", iter(images.repeat(12, axis=0)), fps=24)
    status, text = call(
        "onnx", "-o", tmp_path / "small.onnx", "--model", folders["student"],
        *("--int8", tmp_path / "*.png", "--int8", tmp_path / "clip"),
    )  # fmt: skip
    assert status == 0, text
    assert "bad.png is no readable image" in text
    x = tensor("student", images)
    full, small = by_onnxruntime(graphs["student"], x), by_onnxruntime(tmp_path / "small.onnx", x)
    assert 0 < np.abs(full.mask - small.mask).mean() < 0.02
    assert ((full.mask > 0.5) == (small.mask > 0.5)).mean() > 0.97
    assert np.abs(full.p - small.p).max() < NEAR
    model = onnx.load(tmp_path / "small.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("DequantizeLinear") > kinds.count("QuantizeLinear") > 5
    about = {entry.key: entry.value for entry in model.metadata_props}
    before = {entry.key: entry.value for entry in onnx.load(graphs["student"]).metadata_props}
    assert about == before | {"int8": "6"}  # four images, and two seconds of video
    assert [value.doc_string for value in model.graph.output] == [RANGES[name] for name in Outputs._fields]


def test_8_bits_by_footage_that_cannot_be_read_are_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    status, text = call("onnx", "-o", tmp_path / "s.onnx", "--model", folders["student"], "--int8", bad)
    assert status == 1
    assert "bad.png is no readable image" in text
    assert "Traceback" not in text
    assert not (tmp_path / "s.onnx").exists()


def test_8_bits_without_a_student_are_an_error(segmenters: dict[str, Segmenter], tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="no student"):
        export_onnx(segmenters["bare"], tmp_path / "small.onnx", [np.zeros((20, 20, 3), np.uint8)])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["student", "bare"])
def test_outputs_depend_on_the_image(name: str, segmenters: dict[str, Segmenter], images: np.ndarray) -> None:
    """Or the other tests would hold for constants."""
    found = by_pytorch(segmenters[name], tensor(name, images))
    for field in ("mask", "box", "p"):
        values = getattr(found, field)
        assert np.abs(values[0] - values[2]).max() > 10 * NEAR, field
    held = (found.mask[:3] > BOX_LEVEL).mean(axis=(1, 2))
    assert ((held > 0.01) & (held < 0.9)).all()


# ---------------------------------------------------------------------------------- PyTorch and segmenter


def test_without_a_student_all_is_the_segmenters(segmenters: dict[str, Segmenter], images: np.ndarray) -> None:
    found = by_pytorch(segmenters["bare"], tensor("bare", images))
    for i, prediction in enumerate(segmenters["bare"].predict_batch(list(images[:, ::2, ::2]))):
        assert np.abs(found.mask[i] - prediction.mask).max() < NEAR
        assert np.abs(found.box[i] - prediction.box).max() < NEAR
        assert np.abs(found.p[i] - prediction.p).max() < NEAR
        assert abs(found.presence[i] - prediction.presence) < NEAR


def test_the_students_mask_is_the_segmenters_before_component_and_filter(
    segmenters: dict[str, Segmenter], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = by_pytorch(segmenters["student"], tensor("student", images))
    student = segmenters["student"].student
    assert student is not None
    monkeypatch.setattr(networks_student, "near_subject", lambda soft, subjects, level: soft)
    monkeypatch.setattr(student, "guide", 0.0)
    for i, prediction in enumerate(segmenters["student"].predict_batch(list(images))):
        assert np.abs(found.mask[i] - prediction.mask).max() < NEAR
        assert abs(found.presence[i] - prediction.presence) < NEAR
        assert abs(found.presence[i] - presence(found.mask[i])) < 1e-6


def test_with_a_student_p_and_box_are_the_segmenters(segmenters: dict[str, Segmenter], images: np.ndarray) -> None:
    segmenter = segmenters["student"]
    found = by_pytorch(segmenter, tensor("student", images))
    chosen, _ = segmenter.detect(list(images))
    for i, prediction in enumerate(segmenter.predict_batch(list(images))):
        assert np.abs(found.p[i] - prediction.p).max() < NEAR
        around = box_from_mask(found.mask[i] > BOX_LEVEL)
        assert (around is None) == (i == len(images) - 1), "of the images, the gray one alone shows nothing"
        assert np.abs(found.box[i] - (chosen[i] if around is None else around)).max() < NEAR


def test_the_graph_and_opencvs_steps_are_the_whole_prediction(
    graphs: dict[str, Path], segmenters: dict[str, Segmenter]
) -> None:
    """From an image of another size than the working size: resized, then component and filter."""
    picture = cv2.resize(scene(1)[0][0], (205, 131), interpolation=cv2.INTER_CUBIC)
    student = segmenters["student"].student
    assert student is not None
    small = cv2.resize(picture, student.size, interpolation=cv2.INTER_AREA)
    soft = by_onnxruntime(graphs["student"], tensor("student", small[None])).mask[0]
    mask = segmenters["student"].predict(picture).mask
    assert (
        np.abs(
            sharpen(picture, near_subject(soft, student.subjects, student.threshold or 0.5), student.guide) - mask
        ).max()
        < NEAR
    )


@pytest.mark.parametrize("sizes", [((128, 80), (48, 32)), ((320, 192), (160, 96)), ((640, 384), (320, 192))])
def test_ds_image_is_resampled_as_opencv_does(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    (width, height), (w, h) = sizes
    image = np.random.default_rng(0).random((height, width), np.float32)
    expected = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    assert np.abs(area_weights(height, h) @ image @ area_weights(width, w).T - expected).max() < 1e-5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_the_extent_is_the_tight_box(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    masks = (rng.random((3, 7, 11)) < share * rng.random((3, 1, 1))).astype(np.float32)
    other = torch.tensor([[0.1, -0.2, 0.3, 0.4]]).repeat(3, 1)
    for mask, found in zip(masks, extent(torch.from_numpy(masks), other).numpy(), strict=True):
        expected = box_from_mask(mask > BOX_LEVEL)
        assert np.allclose(found, other[0].numpy() if expected is None else expected, atol=1e-6)


# ------------------------------------------------------------------------------------------ file, command


def test_the_file_tells_what_it_holds(graphs: dict[str, Path]) -> None:
    model = onnx.load(graphs["student"])
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["working_size"]) == [WIDTH, HEIGHT]
    assert float(about["threshold"]) == 0.35
    assert list(json.loads(about["ranges"])) == ["image", *Outputs._fields]
    assert about["backdrop"]
    bare = {entry.key: entry.value for entry in onnx.load(graphs["bare"]).metadata_props}
    assert json.loads(bare["working_size"]) == list(SIZE)
    assert "threshold" not in bare


def test_the_command_tells_what_it_wrote(graphs: dict[str, Path]) -> None:
    path = graphs["student"]
    wrote, *lines = (path.parent.parent / "said").read_text().splitlines()
    assert str(path) in wrote
    assert f"{path.stat().st_size / 1e6:.1f} MB" in wrote
    assert lines[0] == f"input image (batch, 3, {HEIGHT}, {WIDTH}): {RANGES['image']}"
    assert [line.split()[1] for line in lines[1:]] == list(Outputs._fields)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing else beside it"


def test_the_file_names_nothing_of_this_machine(graphs: dict[str, Path]) -> None:
    for path in graphs.values():
        data = path.read_bytes()
        assert str(Path(backdrop.__file__).parent).encode() not in data
        assert b".py" not in data


def test_help_shows_an_example() -> None:
    status, text = call("onnx", "--help")
    assert status == 0
    assert "backdrop onnx -o" in text


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    status, text = call("onnx", "-o", tmp_path / "out" / "model.onnx", "--model", tmp_path)
    assert status == 1
    assert f"{tmp_path} is no model folder" in text
    status, text = call("onnx", "-o", tmp_path / "out" / "model.onnx", "--model", tmp_path / "none")
    assert status == 1
    assert (
        f"there is no model folder {tmp_path / 'none'}: in a project, `backdrop train` makes models/segmenter" in text
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_in_the_files_place_is_named(tmp_path: Path, segmenters: dict[str, Segmenter]) -> None:
    with pytest.raises(BackdropError, match="is a folder"):
        export_onnx(segmenters["bare"], tmp_path)


@pytest.mark.parametrize("fault", ["export", "check", "write"])
def test_a_failed_export_leaves_what_was_there(
    fault: str,
    tmp_path: Path,
    graphs: dict[str, Path],
    segmenters: dict[str, Segmenter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("on purpose")

    def half(path: Path, data: bytes) -> None:
        with path.open("wb") as stream:
            stream.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "model.onnx"
    path.write_text("the one before")
    done = SimpleNamespace(model_proto=onnx.load(graphs["bare"]))
    monkeypatch.setattr(torch.onnx, "export", fail if fault == "export" else lambda *_, **__: done)
    if fault == "check":
        monkeypatch.setattr(onnx.checker, "check_model", fail)
    if fault == "write":
        monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(BackdropError if fault == "write" else RuntimeError, match="cannot write|on purpose"):
        export_onnx(segmenters["bare"], path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "the one before"
