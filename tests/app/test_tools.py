"""Exports, opened by the tools that they are for (slow). What a tool counts and says of them is asserted.

The last run had pycocotools 2.0.11, datumaro 1.13.12, supervision 0.31.2, ultralytics 8.4.190, label-studio-sdk 2.1.2,
label-studio-converter 0.0.59, pyarrow 26.0.1, FFmpeg 5.1.9 and Chromium 150. A tool that is not installed skips its
tests. cvat-sdk has no test: it reads from a server only.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backdrop.app.exports import common
from backdrop.app.exports.common import recorded
from backdrop.app.records import Ending, Record, Records, Settings, content_header, encoded, records_path, write_records
from backdrop.app.sources import Source
from backdrop.io.masks import Mask
from backdrop.video.color import ColorTags
from backdrop.video.encode import Presentation, encode_video
from tests.app.exported import (
    FPS,
    FRAMES,
    HEIGHT,
    IMAGES,
    RED,
    WIDTH,
    export,
    iou,
    mask_of,
    picture,
    subject_mask,
    write_material,
    write_results,
)

pytestmark = pytest.mark.slow

SHOWN = sum(subject_mask(t).any() for t in range(FRAMES))
"""Frames of the video that show the subject."""

OBJECTS = SHOWN + 3
"""Each of the three images shows it, too."""


def tool(module: str, package: str) -> Any:
    """A module of a tool. Without it, the test is skipped."""
    return pytest.importorskip(module, reason=f"needs {package}: pip install {package}", exc_type=ImportError)


def program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs the program {name}; install the package {package} of the distribution")
    return found


@pytest.fixture
def done(tmp_path: Path) -> Path:
    return write_results(write_material(tmp_path / "in"), tmp_path / "done", specks=1)


def masks_by_name(done: Path) -> dict[str, Mask]:
    """The true mask of each frame, by the name that other tools have for it, in the order of the records."""
    return {common.file_name(s, r): mask_of(s, r.frame) for s, records in recorded(done) for r in records.frames}


# --------------------------------------------------------------------------------------------------- COCO


def test_pycocotools_scores_the_masks_as_their_own_truth(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = export(done, "-f", "coco", "--images") / "coco"
    truth = COCO(str(out / "annotations" / "instances_default.json"))
    assert (len(truth.getImgIds()), len(truth.getAnnIds())) == (len(IMAGES), OBJECTS)
    masks = masks_by_name(done)
    for annotation in truth.anns.values():
        mask = masks[truth.imgs[annotation["image_id"]]["file_name"]]
        assert np.array_equal(truth.annToMask(annotation) > 0, mask)
    scores = COCOeval(truth, truth.loadRes(list(truth.dataset["annotations"])), "segm")
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    assert "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 1.000" in capsys.readouterr().out


def test_datumaro_opens_coco_with_its_images(done: Path) -> None:
    datumaro = tool("datumaro", "datumaro")
    out = export(done, "-f", "coco", "--images")
    data = datumaro.Dataset.import_from(str(out / "coco"), "coco")
    words = f"default: # of items={len(IMAGES)}, # of annotated items={OBJECTS}, # of annotations={2 * OBJECTS}"
    assert words in repr(data), "a mask and a box per subject"
    masks = {name.rpartition(".")[0]: mask for name, mask in masks_by_name(done).items()}
    for item in data:
        assert item.media.data.shape[:2] == (HEIGHT, WIDTH)
        shapes = [one.image > 0 for one in item.annotations if one.type == datumaro.AnnotationType.mask]
        assert len(shapes) == masks[item.id].any()
        assert all(np.array_equal(shape, masks[item.id]) for shape in shapes)


@pytest.mark.parametrize("name", ["coco", "yolo"])
def test_supervision_opens_frames_and_masks(name: str, done: Path) -> None:
    supervision = tool("supervision", "supervision")
    out = export(done, "-f", name, "--images") / name
    if name == "coco":
        annotations = out / "annotations" / "instances_default.json"
        data = supervision.DetectionDataset.from_coco(str(out / "images"), str(annotations), force_masks=True)
        assert len(data) == len(IMAGES)
    else:
        data = supervision.DetectionDataset.from_yolo(
            str(out / "images" / "run"), str(out / "labels" / "run"), str(out / "data.yaml"), force_masks=True
        )
        assert len(data) == FRAMES
    assert data.classes == ["subject"]
    run = {Path(path).name: (image, found) for path, image, found in data if Path(path).parent.name == "run"}
    assert len(run) == FRAMES
    for t in range(FRAMES):
        image, found = run[f"frame_{t:06d}.jpg"]
        assert image.shape[:2] == (HEIGHT, WIDTH)
        assert len(found) == subject_mask(t).any()
        if len(found):
            assert iou(found.mask[0], subject_mask(t)) > (0.999 if name == "coco" else 0.9), (
                "it cuts corners down to whole pixels"
            )


# --------------------------------------------------------------------------------------------------- YOLO


def test_ultralytics_opens_the_data_set(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    data_sets, utils = tool("ultralytics.data", "ultralytics"), tool("ultralytics.data.utils", "ultralytics")

    out = export(done, "-f", "yolo", "--images") / "yolo"
    data = utils.check_det_dataset(str(out / "data.yaml"), autodownload=False)
    assert (data["names"], data["nc"]) == ({0: "subject"}, 1)
    read = data_sets.YOLODataset(img_path=data["train"], data=data, task="segment", augment=False, imgsz=WIDTH)
    found, missing, empty, corrupt, total = utils.load_dataset_cache_file(out / "labels.cache")["results"]
    assert (found, missing, empty, corrupt, total) == (len(IMAGES), 0, FRAMES - SHOWN, 0, len(IMAGES))
    assert len(read.labels) == len(IMAGES)
    for label in read.labels:
        name = Path(label["im_file"]).relative_to(out / "images").as_posix()
        if not name.startswith("run/"):
            continue
        mask = subject_mask(int(Path(name).stem.removeprefix("frame_")))
        assert len(label["segments"]) == len(label["cls"]) == mask.any()
        drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
        for shape in label["segments"]:
            cv2.fillPoly(drawn, [np.rint(shape * (WIDTH, HEIGHT) - 0.5).astype(np.int32)], 1)
        assert iou(drawn > 0, mask) > 0.93


# --------------------------------------------------------------------------------------------------- CVAT


def test_datumaro_opens_the_tracks_for_cvat(done: Path) -> None:
    datumaro = tool("datumaro", "datumaro")
    out = export(done, "-f", "cvat")
    data = datumaro.Dataset.import_from(str(out / "cvat" / "run.xml"), "cvat")
    assert "run: # of items=5, # of annotated items=5, # of annotations=5" in repr(data)
    boxes = {item.attributes["frame"]: item.annotations[0] for item in data}
    assert set(boxes) == {0, 4, 5, 7, 11}
    assert boxes[0].points == [24, 34, 57, 96]
    assert boxes[5].attributes["outside"]
    assert {box.attributes["track_id"] for box in boxes.values()} == {1}


# --------------------------------------------------------------------------------------------- Label Studio


def test_label_studio_takes_tasks_and_config(done: Path) -> None:
    decode_rle = tool("label_studio_sdk.converter.brush", "label-studio-sdk").decode_rle
    interfaces = tool("label_studio_sdk.label_interface", "label-studio-sdk")

    out = export(done, "-f", "labelstudio", "-f", "labelstudio-video", "--url-prefix", "http://localhost:8081/")
    for name in ("labelstudio", "labelstudio-video"):
        interface = interfaces.LabelInterface((out / f"{name}.xml").read_text())
        interface.validate()
        for task in json.loads((out / f"{name}.json").read_text()):
            assert interface.validate_task({"data": task["data"]})
            for prediction in task["predictions"]:
                assert interface.validate_prediction(prediction, return_errors=True) == []
    tasks = json.loads((out / "labelstudio.json").read_text())
    for task, mask in zip(tasks, masks_by_name(done).values(), strict=True):
        results = task["predictions"][0]["result"]
        assert len(results) == mask.any()
        for result in results:
            values = decode_rle(result["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)
            assert np.array_equal(values[..., 3] > 0, mask)


def test_label_studio_converter_writes_the_masks(done: Path, tmp_path: Path) -> None:
    converters = tool("label_studio_converter.converter", "label-studio-converter")
    out = export(done, "-f", "labelstudio")
    tasks = json.loads((out / "labelstudio.json").read_text())
    for number, task in enumerate(tasks):  # as the server gives predictions back that somebody has accepted
        (prediction,) = task.pop("predictions")
        task |= {"id": number, "annotations": [{"id": number, "completed_by": 1, "result": prediction["result"]}]}
    (tmp_path / "accepted.json").write_text(json.dumps(tasks))
    (tmp_path / "png").mkdir()
    converter = converters.Converter(str(out / "labelstudio.xml"), str(tmp_path), download_resources=False)
    assert "BRUSH_TO_PNG" in converter.supported_formats
    converter.convert(
        str(tmp_path / "accepted.json"), str(tmp_path / "png"), converters.Format.BRUSH_TO_PNG, is_dir=False
    )
    written = {int(path.name.split("-")[1]): path for path in (tmp_path / "png").iterdir()}
    masks = list(masks_by_name(done).values())
    assert sorted(written) == [number for number, mask in enumerate(masks) if mask.any()]
    for number, path in written.items():
        assert path.name == f"task-{number}-annotation-{number}-by-1-tag-subject-0.png"
        assert np.array_equal(np.asarray(Image.open(path)) > 0, masks[number])


def test_label_studio_fills_the_timeline_with_the_boxes_of_the_masks(done: Path) -> None:
    video = tool("label_studio_sdk._extensions.label_studio_tools.postprocessing.video", "label-studio-sdk")
    (task,) = json.loads((export(done, "-f", "labelstudio-video") / "labelstudio-video.json").read_text())
    (result,) = video.extract_key_frames(task["predictions"][0]["result"])
    boxes = {row["frame"] - 1: row for row in result["value"]["sequence"]}
    assert sorted(boxes) == [t for t in range(FRAMES) if subject_mask(t).any()]
    for t, row in boxes.items():
        left, top, width, height = cv2.boundingRect(subject_mask(t).astype(np.uint8))
        pixels = [row["x"] * WIDTH, row["y"] * HEIGHT, row["width"] * WIDTH, row["height"] * HEIGHT]
        assert np.abs(np.array(pixels) / 100 - (left, top, width, height)).max() < 0.01
        assert row["time"] == pytest.approx(t / FPS, abs=0.01)


# ------------------------------------------------------------------------------------------- table, cut-outs


def test_arrow_knows_the_types_of_the_table(done: Path) -> None:
    csv = tool("pyarrow.csv", "pyarrow")
    table = csv.read_csv(export(done, "-f", "csv") / "csv" / "frames.csv")
    assert table.num_rows == len(IMAGES)
    kinds = {field.name: str(field.type) for field in table.schema}
    whole = ["frame", "identity", "area", "box_left", "box_top", "box_width", "box_height"]
    assert {kinds[name] for name in whole} == {"int64"}
    assert {kinds[name] for name in ("time_s", "centroid_x", "centroid_y", "presence", "sure")} == {"double"}
    assert table["identity"].null_count == table["centroid_x"].null_count == FRAMES - SHOWN


VIDEO_SIZE, VIDEO_FRAMES = (320, 240), 4


def large_mask(t: int) -> Mask:
    return cv2.resize(subject_mask(t).astype(np.uint8), VIDEO_SIZE, interpolation=cv2.INTER_NEAREST) > 0


def large_picture(t: int) -> np.ndarray:
    return picture(large_mask(t))


@pytest.fixture(params=[1, 5, 6, 7], ids="matrix {}".format)
def colored(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, int]:
    """What `predict` leaves of a video whose colors have this matrix, and the matrix."""
    matrix: int = request.param
    path, out = tmp_path / "run.mkv", tmp_path / "done"
    color = ColorTags(matrix).complete(VIDEO_SIZE[1])
    shown = Presentation([t / FPS for t in range(VIDEO_FRAMES + 1)], color=color)
    encode_video(path, [large_picture(t) for t in range(VIDEO_FRAMES)], fps=FPS, quality=98, shown=shown)
    source = Source(path, "run", True)
    rows = [
        Record(t, t / FPS, VIDEO_SIZE, (0.0, 0.0, 1.0, 1.0), 0.5, 0.9, encoded(large_mask(t)))
        for t in range(VIDEO_FRAMES)
    ]
    header = Settings("model", 0.5, None).header(source) | content_header(path, {})
    (out / "records").mkdir(parents=True)
    (out / ".lock").touch()
    write_records(records_path(out, source), Records(header, rows, True, Ending(VIDEO_FRAMES / FPS)))
    return out, matrix


MATRIX_NAMES = {1: "bt709", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m"}
"""FFmpeg's."""


def probed(path: Path) -> dict[str, Any]:
    """What ffprobe says of a file's video, its frames counted."""
    command = [program("ffprobe", "ffmpeg"), "-v", "error", "-count_frames", "-show_streams", "-of", "json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (stream,) = json.loads(done.stdout)["streams"]
    return stream


def seen_by_ffmpeg(path: Path, *options: str) -> np.ndarray:
    """(T, H, W, 4) RGBA as FFmpeg shows it."""
    command = [program("ffmpeg", "ffmpeg"), "-v", "error", *options, "-i", str(path), "-f", "rawvideo"]
    done = subprocess.run([*command, "-pix_fmt", "rgba", "-"], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, *VIDEO_SIZE[::-1], 4)


def check_shown(shown: np.ndarray, t: int) -> None:
    """A frame with alpha shows the subject of the frame t, in its color, and nothing else."""
    mask = large_mask(t)
    assert iou(shown[..., 3] > 127, mask) > 0.99
    inside = cv2.erode(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert np.abs(np.median(shown[inside][:, :3], axis=0) - RED).max() <= 4


@pytest.mark.parametrize("name", ["mov", "webm"])
def test_ffmpeg_shows_the_subject_of_a_video_with_alpha(name: str, colored: tuple[Path, int]) -> None:
    done, matrix = colored
    path = export(done, "-f", "alpha", *(["--webm"] if name == "webm" else [])) / "alpha" / f"run.{name}"
    said = probed(path)
    assert (said["width"], said["height"]) == VIDEO_SIZE
    assert int(said["nb_read_frames"]) == VIDEO_FRAMES
    assert said["color_range"] == "tv"
    if name == "mov":
        assert (said["codec_name"], said["profile"]) == ("prores", "4444")
        assert said["pix_fmt"].startswith("yuva444p")
        assert said["color_space"] == MATRIX_NAMES[matrix if matrix in (1, 6) else 6]
    else:
        assert (said["codec_name"], said["tags"]["alpha_mode"]) == ("vp9", "1")
        assert said["color_space"] == MATRIX_NAMES[matrix]
    frames = seen_by_ffmpeg(path, *(["-c:v", "libvpx-vp9"] if name == "webm" else []))
    assert len(frames) == VIDEO_FRAMES
    for t, shown in enumerate(frames):
        check_shown(shown, t)


@pytest.mark.parametrize("name", ["video", "background"])
def test_ffprobe_describes_what_is_written_for_players(name: str, colored: tuple[Path, int]) -> None:
    done, matrix = colored
    said = probed(export(done, "-f", name) / name / "run.mp4")
    assert (said["codec_name"], said["pix_fmt"], said["width"], said["height"]) == ("h264", "yuv420p", *VIDEO_SIZE)
    assert (said["color_space"], said["color_range"]) == (MATRIX_NAMES[matrix], "tv")
    assert int(said["nb_read_frames"]) == VIDEO_FRAMES
    assert float(said["duration"]) == pytest.approx(VIDEO_FRAMES / FPS, abs=1e-3)


def test_ffprobe_sees_the_alpha_of_a_cut_out(done: Path) -> None:
    out = export(done, "-f", "cutout") / "cutout"
    for name in ("a.png", "run/frame_000003.png"):
        said = probed(out / name)
        assert (said["codec_name"], said["pix_fmt"], said["width"], said["height"]) == ("png", "rgba", WIDTH, HEIGHT)


DRAW_IN_BROWSER = """async ([address, seconds]) => {
  const video = document.createElement("video");
  video.muted = true;
  video.src = address;
  await new Promise((done, failed) => {
    video.onloadeddata = done;
    video.onerror = () => failed(new Error(video.error.message));
  });
  video.currentTime = seconds;
  await new Promise(done => { video.onseeked = done; });
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  return [video.duration, canvas.height, canvas.width, ...context.getImageData(0, 0, canvas.width, canvas.height).data];
}"""
"""Draws the frame of a video at this time on an empty canvas, whose pixels then hold its alpha."""


@pytest.mark.parametrize("colored", [1, 6], indirect=True, ids="matrix {}".format)
def test_a_browser_shows_the_subject_of_a_webm_with_alpha(colored: tuple[Path, int]) -> None:
    playwright = tool("playwright.sync_api", "playwright")
    path = export(colored[0], "-f", "alpha", "--webm") / "alpha" / "run.webm"
    address = f"data:video/webm;base64,{base64.b64encode(path.read_bytes()).decode()}"
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program("chromium", "chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        duration, height, width, *values = page.evaluate(DRAW_IN_BROWSER, [address, 1.5 / FPS])
        browser.close()
    assert duration == pytest.approx(VIDEO_FRAMES / FPS, abs=1e-3)
    assert (width, height) == VIDEO_SIZE
    check_shown(np.array(values, np.uint8).reshape(height, width, 4), t=1)
