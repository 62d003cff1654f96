"""Several subjects: how a mask is divided, and that numbers stay with their subjects."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from backdrop.app.exports import FORMATS
from backdrop.app.exports.common import recorded
from backdrop.app.pictures import PICTURES, picture_path
from backdrop.app.predict import Job, predict_source
from backdrop.app.reader import frames_of
from backdrop.app.records import Record, Settings, read_records, records_path
from backdrop.app.segmenter import Segmenter
from backdrop.app.sources import Source
from backdrop.crf.instances import Linker, chosen_boxes, divide, find_instances
from backdrop.motion.blobs import LESSER
from backdrop.networks.predictor import Prediction
from backdrop.video.encode import encode_video

HEIGHT, WIDTH = 60, 120
SETTINGS = Settings("m", 0.5, None, instances=2)
LEFT, RIGHT = np.array([-0.5, 0.0, 0.6, 1.2]), np.array([0.5, 0.0, 0.6, 1.2])


def mask_of(*spans: tuple[int, int, int, int]) -> np.ndarray:
    """Rectangles left, top, right, bottom in an image of 120 x 60 pixels."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for left, top, right, bottom in spans:
        mask[top:bottom, left:right] = True
    return mask


def prediction(p: dict[tuple[int, int], float], soft: np.ndarray, side: float = 0.5) -> Prediction:
    """Each cell has a box of this side around its center; p: (row, column) -> probability."""
    axis = (np.arange(8) + 0.5) / 4 - 1
    boxes = np.full((8, 8, 4), side)
    boxes[..., 0], boxes[..., 1] = np.meshgrid(axis, axis)
    probabilities = np.zeros((8, 8))
    for cell, value in p.items():
        probabilities[cell] = value
    cell = int(probabilities.argmax())
    return Prediction(soft.astype(np.float32), boxes.reshape(-1, 4)[cell], probabilities, cell, boxes, 1.0)


def blobs(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(HEIGHT, WIDTH)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 6) > 0.02


# ---------------------------------------------------------------------------------------------- dividing


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 4))
def test_every_pixel_of_the_mask_belongs_to_one_subject(seed: int, count: int, boxes: int) -> None:
    mask = blobs(seed)
    rng = np.random.default_rng(seed)
    given_boxes = np.column_stack([rng.uniform(-1, 1, (boxes, 2)), rng.uniform(0.2, 1, (boxes, 2))])
    labels = divide(mask, given_boxes, count)
    assert np.array_equal(labels > 0, mask)
    areas = np.bincount(labels.ravel(), minlength=2)[1:]
    assert len(areas) <= count
    assert (areas > 0).all() or not mask.any()
    assert (np.diff(areas) <= 0).all(), "the largest first"


def test_components_are_subjects_where_boxes_say_nothing() -> None:
    mask = mask_of((5, 10, 45, 50), (70, 10, 100, 50), (60, 0, 62, 3))
    labels = divide(mask, np.zeros((0, 4)), 3)
    assert set(np.unique(labels)) == {0, 1, 2}
    assert (labels[10:50, 5:45] == 1).all()
    assert (labels[10:50, 70:100] == 2).all()
    assert (labels[0:3, 60:62] == 2).all(), "too small to be one itself; the second is nearer"
    assert divide(mask, np.zeros((0, 4)), 1).max() == 1


def test_what_is_much_smaller_is_no_subject_of_its_own() -> None:
    large = mask_of((0, 0, 50, 50))
    for share in (LESSER * 0.8, LESSER * 1.2):
        height = round(50 * 50 * share / 20)
        assert divide(large | mask_of((90, 0, 110, height)), np.zeros((0, 4)), 2).max() == (1 if share < LESSER else 2)


def test_two_boxes_divide_one_component() -> None:
    mask = mask_of((5, 10, 115, 50))
    labels = divide(mask, np.stack([LEFT, RIGHT]), 2)
    assert set(np.unique(labels[:, 5:60][mask[:, 5:60]])) == {labels[30, 20]}
    assert set(np.unique(labels[:, 60:115][mask[:, 60:115]])) == {labels[30, 100]}
    assert labels[30, 20] != labels[30, 100]
    assert divide(mask, np.stack([LEFT, RIGHT]), 1).max() == 1
    assert divide(mask, LEFT[None], 2).max() == 1, "one box divides nothing"


def test_each_component_gets_a_number_before_one_is_divided() -> None:
    mask = mask_of((0, 5, 70, 55), (90, 5, 118, 55))
    boxes = np.array([[-0.75, 0, 0.4, 1], [-0.1, 0, 0.4, 1]])
    two, three = divide(mask, boxes, 2), divide(mask, boxes, 3)
    assert two.max() == 2
    assert len(set(two[30, :70])) == 1
    assert three.max() == 3


def test_boxes_come_by_probability_without_overlaps() -> None:
    soft = np.ones((HEIGHT, WIDTH))
    found = prediction({(3, 2): 0.6, (3, 3): 0.25, (4, 6): 0.1, (1, 1): 0.001}, soft)
    boxes = chosen_boxes(found, soft > 0.5, 4)
    assert np.allclose(boxes[:, :2], [[-0.375, -0.125], [0.625, 0.125]]), "the neighbor overlaps, the last is unlikely"
    assert len(chosen_boxes(found, soft > 0.5, 1)) == 1
    empty_there = mask_of((0, 0, 60, 60))
    assert len(chosen_boxes(found, empty_there, 4)) == 1, "a box with nothing in it"


def test_confidence_is_that_of_the_part() -> None:
    one, other = mask_of((5, 10, 45, 50)), mask_of((70, 10, 110, 40))
    found = find_instances((7 * one + 3 * other).astype(np.uint8), (0.9 * one + 0.4 * other).astype(np.float32))
    assert {number: round(part.confidence, 2) for number, part in found.items()} == {3: 0.4, 7: 0.9}
    assert np.allclose(found[7].box, [-70 / 120, 0, 80 / 120, 80 / 60])
    assert not (found[3].mask & found[7].mask).any()
    assert find_instances(np.zeros((HEIGHT, WIDTH), np.uint8), np.ones((HEIGHT, WIDTH), np.float32)) == {}


# ----------------------------------------------------------------------------------------------- numbers


def walkers(t: int) -> list[np.ndarray]:
    """One goes right, one left; they do not meet. The first is out of view in frames 4 to 6."""
    one, other = mask_of((4 * t, 5, 4 * t + 20, 25)), mask_of((90 - 3 * t, 35, 110 - 3 * t, 55))
    return [other] if 4 <= t < 7 else [one, other] if t % 2 else [other, one]


def test_numbers_stay_with_their_subjects() -> None:
    linker = Linker()
    for t in range(12):
        masks = walkers(t)
        numbers = linker.numbers(masks)
        by_place = {("top" if mask[:30].any() else "bottom"): n for n, mask in zip(numbers, masks, strict=True)}
        assert by_place["bottom"] == 1
        # out of view for three frames it moved by 16 of its 20 pixels: what overlaps by a tenth is it
        assert by_place.get("top") == (None if 4 <= t < 7 else 2)


def test_a_video_may_change_its_size() -> None:
    linker = Linker()
    there = np.zeros((40, 60), bool)
    there[10:30, 10:30] = True
    assert linker.numbers([there]) == [1]
    assert linker.numbers([np.pad(there, 5)]) == [2], "what cannot be compared is somebody else"
    assert linker.numbers([there]) == [1]


def test_a_number_comes_back_to_who_stands_where_it_was() -> None:
    linker, there = Linker(), mask_of((10, 10, 30, 30))
    assert linker.numbers([there]) == [1]
    for _ in range(5):
        assert linker.numbers([]) == []
    assert linker.numbers([there]) == [1]
    for _ in range(11):
        linker.numbers([])
    assert linker.numbers([there]) == [2], "forgotten"


def test_numbers_fit_eight_bits() -> None:
    linker, seen = Linker(), []
    for t in range(300):
        shift = 30 * (t % 4)
        seen += linker.numbers([mask_of((shift, 0, shift + 20, 20))])
        for _ in range(11):
            linker.numbers([])
    assert seen[:255] == list(range(1, 256))
    assert seen[255:] == list(range(1, 46)), "those unseen for longest"


# ------------------------------------------------------------------------------------- records and exports


class TwoSquares(Segmenter):
    """Finds what is red, and says so surely: two squares that move."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []

    def predict_batch(self, images, subjects=None, region=None):  # noqa: ANN001, ANN201
        self.asked.append(subjects)
        return [prediction({(3, 2): 1.0}, (np.asarray(i)[..., 0] > 180) & (np.asarray(i)[..., 2] < 90)) for i in images]


def frame(t: int) -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    image[8:32, 4 + 4 * t : 28 + 4 * t] = (240, 20, 20)
    image[34:52, 90 - 4 * t : 108 - 4 * t] = (240, 20, 20)
    return image


@pytest.fixture
def two_subjects(tmp_path: Path) -> tuple[Path, Source]:
    encode_video(tmp_path / "two.mp4", [frame(t) for t in range(6)], fps=10, quality=100)
    source, out = Source(tmp_path / "two.mp4", "two", True), tmp_path / "out"
    segmenter = TwoSquares()
    predict_source(Job(segmenter, out, SETTINGS, PICTURES, batch=2), source)
    assert segmenter.asked == [2, 2, 2]
    return out, source


def test_records_hold_each_subject(two_subjects: tuple[Path, Source]) -> None:
    out, source = two_subjects
    records = read_records(records_path(out, source))
    assert records is not None
    for record, shown in zip(records.frames, frames_of(source), strict=True):
        assert [part.number for part in record.parts()] == [1, 2]
        one, two = (part.decoded() for part in record.parts())
        assert np.array_equal(one | two, record.decoded())
        assert one[20].any()
        assert two[43].any()
        assert not one[40:].any()
        stored = np.asarray(Image.open(picture_path(out, "masks", source, record.frame)))
        assert np.array_equal(stored, one + 2 * two)
        assert np.array_equal(np.load(picture_path(out, "npz", source, record.frame))["instances"], stored)
        overlay = np.asarray(Image.open(picture_path(out, "overlay", source, record.frame))).astype(int)
        y, x = (int(v.mean()) for v in np.nonzero(two))
        assert overlay[y, x, 2] > shown.image[y, x, 2] + 60, "the second is blue"
        assert Record.read(json.loads(json.dumps(record.row()))) == record


def test_a_stopped_video_keeps_the_numbers(two_subjects: tuple[Path, Source], tmp_path: Path) -> None:
    out, source = two_subjects
    path = records_path(out, source)
    complete = path.read_bytes()
    path.write_bytes(b"".join(complete.splitlines(keepends=True)[:4]))
    assert predict_source(Job(TwoSquares(), out, SETTINGS, PICTURES), source) == 6, "a chunk is told apart as a whole"
    assert path.read_bytes() == complete


def test_every_export_has_the_numbers(two_subjects: tuple[Path, Source], tmp_path: Path) -> None:
    out, source = two_subjects
    found = recorded(out)
    for write in FORMATS.values():
        assert write(found, tmp_path)
    labels = [record.labels() for record in found[0][1].frames]
    coco = COCO(str(tmp_path / "coco.json"))
    for number, image in coco.imgs.items():
        t = int(Path(image["file_name"]).stem.removeprefix("frame_"))
        for annotation in coco.loadAnns(coco.getAnnIds(number)):
            assert np.array_equal(coco.annToMask(annotation) > 0, labels[t] == annotation["track_id"])
    assert [a["track_id"] for a in coco.anns.values()] == [1, 2] * 6
    for t, expected in enumerate(labels):
        davis = np.asarray(Image.open(tmp_path / "davis" / "Annotations" / "two" / f"{t:05d}.png"))
        assert np.array_equal(davis, expected)
        lines = (tmp_path / "yolo" / "labels" / "two" / f"frame_{t:06d}.txt").read_text().splitlines()
        numbers = (tmp_path / "yolo" / "numbers" / "two" / f"frame_{t:06d}.txt").read_text().split()
        for line, number in zip(lines, numbers, strict=True):
            x, y = (np.array(line.split()[1:], float).reshape(-1, 2) * (WIDTH, HEIGHT)).mean(axis=0)
            assert expected[int(y), int(x)] == int(number)
    tasks = json.loads((tmp_path / "labelstudio.json").read_text())
    assert [[r["meta"]["text"] for r in task["predictions"][0]["result"]] for task in tasks] == [
        [["subject 1"], ["subject 2"]]
    ] * 6
    assert len({r["id"] for task in tasks for r in task["predictions"][0]["result"]}) == 12
