"""Exports: frames beside labels, tables, cut-outs, tracks. The tools open them in `test_tools.py`."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from backdrop.app.exports import common, cutouts, tracks, yolo
from backdrop.app.exports.common import recorded
from backdrop.video.color import ColorTags, decoded_rgb
from backdrop.video.decode import decode_video
from backdrop.video.encode import Presentation
from tests.app import exported
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
    subject_mask,
    write_material,
    write_results,
)
from tests.backdrop_command import call


@pytest.fixture
def material(tmp_path: Path) -> Path:
    return write_material(tmp_path / "in")


@pytest.fixture
def done(material: Path, tmp_path: Path) -> Path:
    return write_results(material, tmp_path / "done", specks=1)


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------- specks


def test_specks_are_dropped_in_every_format(done: Path) -> None:
    words = [word for name in ("coco", "yolo", "csv", "davis") for word in ("-f", name)]
    out = export(done, *words)
    assert [a["area"] for a in json.loads((out / "coco.json").read_text())["annotations"]] == [
        int(mask_of(source, record.frame).sum())
        for source, records in recorded(done)
        for record in records.frames
        if mask_of(source, record.frame).any()
    ]
    for t in range(FRAMES):
        stored = np.asarray(Image.open(out / "davis" / "Annotations" / "run" / f"{t:05d}.png"))
        assert np.array_equal(stored > 0, subject_mask(t))
        lines = (out / "yolo" / "labels" / "run" / f"frame_{t:06d}.txt").read_text().splitlines()
        assert len(lines) == subject_mask(t).any(), "one object per subject, of two parts though it is"


@pytest.mark.parametrize(("least", "kept"), [(0, 1), (1, 1), (2, 0), (300, 0), (100_000, None)])
def test_the_smallest_area_is_an_option(least: int, kept: int | None, done: Path) -> None:
    out = export(done, "-f", "csv", "--min-area", least)
    table = pd.read_csv(out / "csv" / "frames.csv").query("video == 'run' and frame == 3")
    bar, disk = (int(subject_mask(3)[rows].sum()) for rows in (slice(70, None), slice(70)))
    left = 0 if kept is None else disk + kept + bar * (bar >= least)
    assert table["area"].tolist() == [left]


def test_a_subject_that_is_a_speck_is_none(material: Path, tmp_path: Path) -> None:
    done = write_results(material, tmp_path / "two", specks=1, subjects=2)
    bar = int(subject_mask(0)[70:].sum())
    found = common.without_specks(recorded(done), bar + 1)
    for _, records in found:
        for record in records.frames:
            assert [part.number for part in record.parts()] in ([1], [])
            union = np.any([part.decoded() for part in record.parts()], axis=0)
            assert np.array_equal(union, record.decoded()) or not record.parts()


# --------------------------------------------------------------------------------------- frames beside labels


def test_images_lie_beside_labels_under_the_names_that_labels_use(done: Path, material: Path) -> None:
    out = export(done, "--images", "-f", "coco", "-f", "yolo", "-f", "labelstudio")
    listed = json.loads((out / "coco" / "annotations" / "instances_default.json").read_text())["images"]
    assert sorted(image["file_name"] for image in listed) == IMAGES
    for name in ("coco", "yolo", "labelstudio"):
        assert below(out / name / "images") == IMAGES
        for source, records in recorded(done):
            for record in records.frames:
                path = out / name / "images" / common.file_name(source, record)
                plain = np.asarray(Image.open(path).convert("RGB")).astype(int)  # as a tool that knows no EXIF
                assert iou(plain[..., 0] > 125, mask_of(source, record.frame)) > 0.95
    assert [label.removesuffix(".txt") for label in below(out / "yolo" / "labels")] == [
        name.rpartition(".")[0] for name in IMAGES
    ]
    assert (out / "coco" / "images" / "a.png").read_bytes() == (material / "a.png").read_bytes(), "copied"


def test_a_source_that_is_gone_is_left_out_with_its_labels(done: Path, material: Path, tmp_path: Path) -> None:
    (material / "run.mp4").unlink()
    Image.new("RGB", (WIDTH, HEIGHT)).save(material / "a.png")
    words = [word for name in ("coco", "yolo", "labelstudio", "cutout", "background") for word in ("-f", name)]
    status, said = call("export", done, "-o", tmp_path / "exported", "--images", *words)
    assert status == 3
    assert "run.mp4: No such file" in said
    assert "a.png has changed since" in said
    out = tmp_path / "exported"
    for name in ("coco", "yolo", "labelstudio"):
        assert below(out / name / "images") == IMAGES[1:3]
    assert len(json.loads((out / "coco" / "annotations" / "instances_default.json").read_text())["images"]) == 2
    assert below(out / "yolo" / "labels") == ["below/c d#.txt", "below/turned.txt"]
    assert len(json.loads((out / "labelstudio.json").read_text())) == 2
    assert len(below(out / "cutout")) == len(below(out / "background")) == 2


def test_addresses_for_label_studio_have_a_prefix_and_are_quoted(done: Path) -> None:
    prefix = "/data/local-files/?d=labelstudio/images/"
    out = export(done, "-f", "labelstudio", "-f", "labelstudio-video", "--url-prefix", prefix)
    tasks = json.loads((out / "labelstudio.json").read_text())
    assert {prefix + "below/c%20d%23.png", prefix + "run/frame_000003.jpg"} <= {t["data"]["image"] for t in tasks}
    (task,) = json.loads((out / "labelstudio-video.json").read_text())
    assert task["data"] == {"video": prefix + "run.mp4", "fps": FPS}


def test_yolo_data_names_the_folder_and_the_class(done: Path) -> None:
    out = export(done, "-f", "yolo", "--images")
    data = yaml.safe_load((out / "yolo" / "data.yaml").read_text())
    assert data == {"train": "images", "val": "images", "names": {0: "subject"}}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_joined_outlines_enclose_what_they_enclose_apart(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=(60, 90)).astype(np.float32)
    mask = cv2.GaussianBlur(noise, (0, 0), 5) > 0.05
    mask[20:30, 30:40] = True
    apart, together = np.zeros((240, 360), np.uint8), np.zeros((240, 360), np.uint8)
    outlines = [np.rint(points * 4).astype(np.int32) for points in yolo.polygons(mask)]
    for outline in outlines:
        cv2.fillPoly(apart, [outline], 1)
    cv2.fillPoly(together, [np.rint(yolo.joined(yolo.polygons(mask)) * 4).astype(np.int32)], 1)
    wrong = apart != together
    assert not cv2.erode(wrong.astype(np.uint8), np.ones((3, 3), np.uint8)).any(), "lines alone"


# -------------------------------------------------------------------------------------------------- table


def test_the_table_has_a_row_per_frame_and_subject(material: Path, tmp_path: Path) -> None:
    out = export(write_results(material, tmp_path / "done", subjects=2), "-f", "csv")
    table = pd.read_csv(out / "csv" / "frames.csv")
    run = table[table["video"] == "run"]
    assert len(run) == 2 * (FRAMES - 2) + 2
    row = run.query("frame == 3 and identity == 1").iloc[0]
    assert row["time_s"] == 3 / FPS
    assert row[["centroid_x", "centroid_y"]].tolist() == [55.5, 50.5], "pixel 55 lies from 55 to 56"
    assert row[["box_left", "box_top", "box_width", "box_height"]].tolist() == [39, 34, 33, 33]
    assert row["area"] == subject_mask(3)[:70].sum()
    assert row["presence"] == 0.9
    assert row[["image_width", "image_height"]].tolist() == [WIDTH, HEIGHT]
    empty = run.query("frame == 5").iloc[0]
    assert empty["area"] == 0
    assert empty[["identity", "centroid_x", "box_left"]].isna().all()
    assert set(table["video"]) == {"a", "below/c d#", "below/turned", "run"}


# ------------------------------------------------------------------------------------------------ cut-outs


def test_cut_outs_have_the_mask_as_alpha_and_nothing_behind_it(done: Path) -> None:
    out = export(done, "-f", "cutout")
    assert below(out / "cutout") == [f"{name.rpartition('.')[0]}.png" for name in IMAGES]
    for source, records in recorded(done):
        for record in records.frames:
            image = Image.open(out / "cutout" / f"{common.label_name(source, record)}.png")
            assert image.mode == "RGBA"
            values = np.asarray(image)
            mask = mask_of(source, record.frame)
            assert np.array_equal(values[..., 3], mask * np.uint8(255))
            assert not values[~mask].any()
            assert np.abs(values[mask][:, :3].astype(int) - RED).max(initial=0) < 60 or source.name != "a"


def transparent_frames(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """(H, W, 4) RGBA and time of each frame. FFmpeg's own decoder of VP9 passes over alpha; libvpx's does not."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        if path.suffix == ".webm":
            assert stream.metadata["alpha_mode"] == "1"
            context = av.codec.CodecContext.create("libvpx-vp9", "r")
        packets = container.demux(stream)
        frames = [frame for packet in packets for frame in context.decode(packet if packet.size else None)]
        return [f.to_ndarray(format="rgba") for f in frames], [float(f.pts * stream.time_base) for f in frames]


def test_a_video_keeps_its_alpha_when_it_is_decoded_again(done: Path) -> None:
    out = export(done, "-f", "alpha")
    path = out / "alpha" / "run.mov"
    assert below(out / "alpha") == [path.name]
    frames, times = transparent_frames(path)
    assert np.allclose(times, [t / FPS for t in range(FRAMES)], atol=1e-3)
    for t, values in enumerate(frames):
        assert iou(values[..., 3] > 127, subject_mask(t)) > 0.99
        inside = cv2.erode(subject_mask(t).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        if inside.any():
            assert np.abs(values[inside][:, :3].astype(int) - RED).mean() < 12
        far = cv2.dilate(subject_mask(t).astype(np.uint8), np.ones((41, 41), np.uint8)) == 0
        assert values[far][:, :3].max() < 40, "what was behind the subject is not in the file"


def test_vp9_is_refused_where_it_loses_alpha(done: Path, tmp_path: Path) -> None:
    status, said = call("export", done, "-o", tmp_path / "x", "-f", "alpha", "--webm")
    assert status == 1
    assert "run.mp4: VP9 does not keep alpha of frames below 200 pixels; leave out --webm" in said
    assert below(tmp_path / "x" / "alpha") == []


@pytest.mark.parametrize(
    ("size", "webm"),
    [((97, 63), False), ((64, 48), False), ((33, 200), False), ((202, 360), True), ((360, 203), True)],
)
def test_alpha_of_any_size(size: tuple[int, int], webm: bool, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    images = [cv2.resize(exported.picture(subject_mask(t)), size) for t in range(3)]
    exported.encode_video(tmp_path / "in" / "x.mkv", images, fps=7, quality=95)
    source = exported.Source(tmp_path / "in" / "x.mkv", "x", True)
    mask = np.zeros(size[::-1], bool)
    mask[10:30, 5:20] = True
    record = exported.Record(0, 0.0, size, (0.0, 0.0, 1.0, 1.0), 0.5, 0.9, exported.encoded(mask))
    rows = [record._replace(frame=t, time=t / 7) for t in range(3)]
    header = exported.Settings("m", 0.5, None).header(source) | exported.content_header(source.path, {})
    records = exported.Records(header, rows, True, exported.Ending(3 / 7))
    (path,) = cutouts.write_alpha([(source, records)], tmp_path, common.ExportChoices(webm=webm))
    frames, _ = transparent_frames(path)
    assert [values.shape[1::-1] for values in frames] == [size] * 3
    assert min(iou(values[..., 3] > 127, mask) for values in frames) > 0.93


@pytest.mark.parametrize(("matrix", "told"), [(1, 1), (5, 6), (6, 6), (7, 6), (9, 9)])
def test_prores_says_what_its_colors_mean(matrix: int, told: int, tmp_path: Path) -> None:
    image = np.dstack([exported.picture(subject_mask(0)), subject_mask(0) * np.uint8(255)])
    shown = Presentation([0, 0.1], color=ColorTags(matrix).complete(HEIGHT))
    with av.open(str(tmp_path / "x.mov"), "w") as container:
        cutouts._encode_transparent(container, iter([image]), Fraction(10), shown, prores=True)
    with av.open(str(tmp_path / "x.mov")) as container:
        (frame,) = container.decode(video=0)
    assert ColorTags.of(frame) == ColorTags(told, *ColorTags(matrix).complete(HEIGHT)[1:])
    values = decoded_rgb(frame, ColorTags.of(frame))
    inside = cv2.erode(subject_mask(0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert np.abs(values[inside].astype(int) - RED).max() <= 3


def test_the_sound_that_alpha_loses_is_noticed(material: Path) -> None:
    assert not cutouts._has_sound(material / "run.mp4")
    path = material / "loud.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 48000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert cutouts._has_sound(path)


@pytest.mark.parametrize("background", ["#0000ff", "blue", "beach.png"])
def test_the_subject_stands_before_a_color_or_an_image(background: str, done: Path, tmp_path: Path) -> None:
    if background == "beach.png":
        background = str(tmp_path / background)
        Image.new("RGB", (50, 300), (0, 0, 255)).save(background)
    out = export(done, "-f", "background", "--background", background)
    assert below(out / "background") == ["a.png", "below/c d#.png", "below/turned.png", "run.mp4"]
    shown = np.asarray(Image.open(out / "background" / "a.png"))
    assert (shown[subject_mask(0)] == RED).all()
    assert (shown[~subject_mask(0)] == (0, 0, 255)).all()
    frames = [image for _, _, image in decode_video(out / "background" / "run.mp4")]
    assert len(frames) == FRAMES
    for t, image in enumerate(frames):
        mask = subject_mask(t).astype(np.uint8)
        inside, outside = cv2.erode(mask, np.ones((5, 5))) > 0, cv2.dilate(mask, np.ones((5, 5))) == 0
        assert (image[inside][:, 2] < 128).all()
        assert (image[outside][:, 2] > 220).all()


def test_a_background_that_is_neither_is_one_line(done: Path, tmp_path: Path) -> None:
    status, said = call("export", done, "-o", tmp_path / "x", "-f", "background", "--background", "beech.jpg")
    assert status == 1
    assert said == (
        "error: --background beech.jpg is neither an image nor a color; name a file, or a color as white, #00ff00, "
        "rgb(0,255,0)\n"
    )


@pytest.mark.parametrize("name", ["alpha", "cvat", "labelstudio-video"])
def test_formats_of_videos_say_so(name: str, done: Path, tmp_path: Path) -> None:
    (done / "records" / "run.jsonl").unlink()
    status, said = call("export", done, "-o", tmp_path / "x", "-f", name)
    assert status == 1
    assert f"format {name} is for videos; for images take " in said


# -------------------------------------------------------------------------------------------------- tracks


def filled(keys: list[tracks.Keyframe], frame: int) -> np.ndarray:
    """A box as a tool makes it from keyframes."""
    frames, boxes = [key.frame for key in keys], np.array([key.box for key in keys])
    return np.array([np.interp(frame, frames, boxes[:, side]) for side in range(4)])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_keyframes_bring_back_all_boxes(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    frames = np.cumsum(random.integers(1, 4, count))
    boxes = np.cumsum(random.normal(0, random.choice([0.1, 3]), (count, 4)), axis=0)
    keys = [tracks.Keyframe(int(f), f / 10, tuple(box)) for f, box in zip(frames, boxes.tolist(), strict=True)]
    kept = tracks.keyframes(keys)
    assert {kept[0], kept[-1]} == {keys[0], keys[-1]}
    for key in keys:
        assert np.abs(filled(kept, key.frame) - key.box).max() <= tracks.STRAY + 1e-9


def test_what_moves_evenly_has_two_keyframes_a_run(done: Path) -> None:
    found = [(source, records) for source, records in common.without_specks(recorded(done)) if source.video]
    runs = tracks.tracks(found[0][1])
    assert {number: [[key.frame for key in run.keys] for run in own] for number, own in runs.items()} == {
        1: [[0, 4], [7, 11]]
    }
    assert [run.after for run in runs[1]] == [5, None]


def test_a_track_of_cvat_is_outside_where_there_is_no_subject(done: Path) -> None:
    out = export(done, "-f", "cvat")
    root = ET.parse(out / "cvat" / "run.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert root.findtext("meta/task/mode") == "interpolation"
    (track,) = root.findall("track")
    assert track.attrib == {"id": "1", "label": "subject", "source": "auto"}
    states = [(int(box.get("frame", "")), box.get("outside"), box.get("keyframe")) for box in track]
    assert states == [(0, "0", "1"), (4, "0", "1"), (5, "1", "1"), (7, "0", "1"), (11, "0", "1")]
    assert [float(track[0].get(side, "")) for side in ("xtl", "ytl", "xbr", "ybr")] == [24, 34, 57, 96]


def test_a_timeline_of_label_studio_ends_where_the_subject_does(done: Path) -> None:
    out = export(done, "-f", "labelstudio-video")
    (task,) = json.loads((out / "labelstudio-video.json").read_text())
    (result,) = task["predictions"][0]["result"]
    assert (result["type"], result["value"]["framesCount"], result["value"]["duration"]) == ("videorectangle", 12, 1.2)
    sequence = result["value"]["sequence"]
    assert [(one["frame"], one["enabled"]) for one in sequence] == [(1, True), (5, False), (8, True), (12, False)]
    assert (sequence[0]["x"], sequence[0]["width"]) == (15, round(100 * 33 / WIDTH, 4))


# ------------------------------------------------------------------------------------------------- COCO


def test_pycocotools_opens_the_data_set_with_images(done: Path) -> None:
    out = export(done, "-f", "coco", "--images") / "coco"
    read = COCO(str(out / "annotations" / "instances_default.json"))
    assert all(os.path.isfile(out / "images" / image["file_name"]) for image in read.imgs.values())
