"""A few labels by people: read from every tool's files, checked, and learned; without any nothing changes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from backdrop.app.exports.coco import coco
from backdrop.app.exports.labelstudio import brush_rle
from backdrop.app.records import Record, Records, encoded
from backdrop.app.sources import Source
from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.student.labels.applied import taught_frames
from backdrop.student.labels.carried import CARRY, carried
from backdrop.student.labels.checked import FrameLabel, read_labels
from backdrop.student.labels.files import labels_place
from backdrop.student.labels.labelstudio import brush_mask
from backdrop.student.labels.proposals import SUBJECT, learned, of_tag
from backdrop.student.targets import IGNORED
from tests.handmade_run import HEIGHT, WIDTH, scene, write_frames, write_index

SIZE = (WIDTH, HEIGHT)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Frames of a video, of a folder of images, and of a test video; `labels/` is empty."""
    rows = [("run1", "day1/run1.mp4", "train"), ("seqA", "seqA", "all"), ("held", "held.mp4", "test")]
    for name, _, _ in rows:
        write_frames(tmp_path / "frames", name, scene(8)[0], {})
    write_index(
        tmp_path / "frames", [{"sequence": n, "source": s, "split": split, "frames": 8} for n, s, split in rows]
    )
    (tmp_path / "labels").mkdir()
    return tmp_path


def read(project: Path) -> tuple[dict, list[str]]:
    archives = [FrameArchive(project / "frames" / f"{name}.zip") for name in ("run1", "seqA")]
    found, lines = read_labels(project / "labels", project / "frames", archives, SIZE)
    return {(name, t): label for name, labels in found.items() for t, label in labels.items()}, lines


def write_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


TRUTH = scene(8)[1]

LEFT, TOP, RIGHT, BOTTOM = 12, 28, 36, 52
"""The box of the subject in frame 3."""


def coco_file(annotations: list[dict], name: str = "run1/frame_000003.jpg", size: tuple[int, int] = SIZE) -> dict:
    image = {"id": 1, "file_name": name, "width": size[0], "height": size[1]}
    classes = [{"id": 1, "name": "subject"}, {"id": 2, "name": "nothing"}]
    return {
        "images": [image],
        "categories": classes,
        "annotations": [{"id": 9, "image_id": 1} | a for a in annotations],
    }


def studio_file(results: list[dict], name: str, annotated: bool = True) -> list[dict]:
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    said = [{"result": [size | one for one in results]}]
    return [{"data": {"image": name}, "annotations" if annotated else "predictions": said}]


def cvat_image(shapes: str, name: str = "run1/frame_000003.jpg") -> str:
    return f'<annotations><image name="{name}" width="{WIDTH}" height="{HEIGHT}">{shapes}</image></annotations>'


def cvat_track(shapes: str, label: str = "subject") -> str:
    size = f"<original_size><width>{WIDTH}</width><height>{HEIGHT}</height></original_size>"
    meta = f"<meta><task><name>run1</name>{size}</task></meta>"
    return f'<annotations>{meta}<track id="0" label="{label}">{shapes}</track></annotations>'


BOX = f'xtl="{LEFT}" ytl="{TOP}" xbr="{RIGHT}" ybr="{BOTTOM}"'
CORNERS = [[LEFT, TOP], [RIGHT, TOP], [RIGHT, BOTTOM], [LEFT, BOTTOM]]
POINTS = ";".join(f"{x},{y}" for x, y in CORNERS)
PERCENT = {"x": 100 * LEFT / WIDTH, "y": 100 * TOP / HEIGHT, "width": 2400 / WIDTH, "height": 2400 / HEIGHT}
RLE = {"format": "rle", "rle": brush_rle(TRUTH[3])}
TABLE = "video,frame,label,left,top,right,bottom\n"

MASKS: dict[str, str | list | dict] = {
    "coco polygon.json": coco_file([{"category_id": 1, "segmentation": [np.ravel(CORNERS).tolist()]}]),
    "coco rle.json": coco_file([{"category_id": 1, "segmentation": encoded(TRUTH[3])}]),
    "coco counts.json": coco_file(
        [
            {
                "category_id": 1,
                "segmentation": {
                    "size": [HEIGHT, WIDTH],
                    "counts": [LEFT * HEIGHT + TOP]
                    + [24, HEIGHT - 24] * 23
                    + [24, WIDTH * HEIGHT - LEFT * HEIGHT - TOP - 24 - 23 * HEIGHT],
                },
            }
        ]
    ),
    "brush.json": studio_file([{"type": "brushlabels", "value": RLE}], "/data/x/run1/frame_000003.jpg"),
    "ours.json": studio_file([{"type": "brushlabels", "value": RLE}], "day1/run1/frame_000003.jpg", annotated=False),
    "upload.json": studio_file([{"type": "brushlabels", "value": RLE}], "/data/upload/1/0a1b2c3d-run1--000003.jpg"),
    "local.json": studio_file(
        [{"type": "brushlabels", "value": RLE}], "/data/local-files/?d=out/run1/frame_000003.jpg"
    ),
    "polygon.json": studio_file(
        [{"type": "polygonlabels", "value": {"points": (np.array(CORNERS) * 100 / SIZE).tolist()}}], "run1/000003.jpg"
    ),
    "mask.xml": cvat_image(f'<mask label="subject" rle="0,576" left="{LEFT}" top="{TOP}" width="24" height="24"/>'),
    "polygon.xml": cvat_image(f'<polygon label="subject" points="{POINTS}"/>'),
    "track.xml": cvat_track(f'<polygon frame="3" outside="0" keyframe="1" points="{POINTS}"/>'),
}

BOXES: dict[str, str | list | dict] = {
    "coco.json": coco_file([{"category_id": 1, "bbox": [LEFT, TOP, 24, 24]}]),
    "coco empty.json": coco_file([{"category_id": 1, "segmentation": [], "bbox": [LEFT, TOP, 24, 24]}]),
    "rectangle.json": studio_file([{"type": "rectanglelabels", "value": PERCENT}], "run1/frame_000003.jpg"),
    "video.json": [
        {
            "data": {"video": "/data/upload/run1.mp4"},
            "annotations": [{"result": [{"type": "videorectangle", "value": {"sequence": [PERCENT | {"frame": 4}]}}]}],
        }
    ],
    "box.xml": cvat_image(f'<box label="subject" {BOX}/>'),
    "track.xml": cvat_track(
        f'<box frame="3" outside="0" keyframe="1" {BOX}/><box frame="4" outside="0" keyframe="0" {BOX}/>'
        f'<box frame="5" outside="1" keyframe="1" {BOX}/>'
    ),
    "table.csv": f"{TABLE}day1/run1.mp4,3,box,{LEFT},{TOP},{RIGHT},{BOTTOM}\n",
}

NOTHINGS: dict[str, str | list | dict] = {
    "coco.json": coco_file([{"category_id": 2, "bbox": [0, 0, 1, 1]}]),
    "choice.json": studio_file([{"type": "choices", "value": {"choices": ["Nothing here"]}}], "run1/frame_000003.jpg"),
    "tag.xml": cvat_image('<tag label="nothing"/>'),
    "track.xml": cvat_track(f'<box frame="3" outside="0" keyframe="1" {BOX}/>', label="nothing"),
    "table.csv": f"{TABLE}run1,000003,nothing,,,,\n",
}


def write(project: Path, name: str, content: str | list | dict) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (project / "labels" / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_tool_are_the_masks_that_were_drawn(name: str, project: Path) -> None:
    write(project, name, MASKS[name])
    found, lines = read(project)
    assert lines == []
    assert set(found) == {("run1", 3)}
    assert np.array_equal(found["run1", 3].mask == SUBJECT, TRUTH[3])


@pytest.mark.parametrize("name", BOXES)
def test_boxes_of_every_tool_are_the_boxes_that_were_drawn(name: str, project: Path) -> None:
    write(project, name, BOXES[name])
    found, lines = read(project)
    assert lines == []
    assert set(found) == {("run1", 3)}, "keyframes alone"
    assert np.allclose(np.array(found["run1", 3].boxes) * [*SIZE, *SIZE], [[LEFT, TOP, RIGHT, BOTTOM]], atol=0.01)


@pytest.mark.parametrize("name", NOTHINGS)
def test_every_tool_can_say_that_nothing_is_there(name: str, project: Path) -> None:
    write(project, name, NOTHINGS[name])
    found, lines = read(project)
    assert lines == []
    assert not found["run1", 3].mask.any()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", f"{TABLE}run1,3,present,,,,\n"),
        ("a.xml", cvat_image('<tag label="present"/>')),
        ("a.json", studio_file([{"type": "choices", "value": {"choices": ["something here"]}}], "run1/000003.jpg")),
    ],
)
def test_every_tool_can_say_that_something_is_there(name: str, content: str | list, project: Path) -> None:
    write(project, name, content)
    found, lines = read(project)
    assert lines == []
    assert found["run1", 3] == FrameLabel(present=True)
    assert found["run1", 3].tag_alone
    write(project, "b.csv", f"{TABLE}run1,3,box,12,28,36,52\n")
    assert not read(project)[0]["run1", 3].tag_alone, "a box says more"


def test_points_lie_on_the_subject_or_on_the_background(project: Path) -> None:
    write(project, "a.csv", f"{TABLE}run1,3,point,20,40,,\nrun1,3,background,100,10,,\n")
    write(project, "b.xml", cvat_image('<points label="subject" points="20,40;22,41"/>', "seqA/00003.jpg"))
    point = {"type": "keypointlabels", "value": {"x": 50, "y": 25, "keypointlabels": ["background"]}}
    write(project, "c.json", studio_file([point], "seqA/00004.png"))
    found, lines = read(project)
    assert lines == []
    assert np.allclose(found["run1", 3].points, [[20 / WIDTH, 40 / HEIGHT]])
    assert np.allclose(found["run1", 3].background, [[100 / WIDTH, 10 / HEIGHT]])
    assert len(found["seqA", 3].points) == 2
    assert found["seqA", 4].background == ((0.5, 0.25),)


def test_masks_lie_in_folders_of_their_videos(project: Path) -> None:
    write_mask(project / "labels" / "run1" / "000003.png", TRUTH[3])
    write_mask(project / "labels" / "seqA" / "00004.png", TRUTH[4])
    write_mask(project / "labels" / "seqA" / "00005.png", np.zeros_like(TRUTH[4]))
    found, lines = read(project)
    assert lines == []
    assert np.array_equal(found["run1", 3].mask == SUBJECT, TRUTH[3])
    assert np.array_equal(found["seqA", 4].mask == SUBJECT, TRUTH[4])
    assert not found["seqA", 5].mask.any(), "an empty mask says that nothing is there"


def test_our_own_coco_export_is_read_back(project: Path) -> None:
    frames = [Record(t, t / 24, SIZE, (0, 0, 1, 1), 0.9, 0.9, encoded(TRUTH[t])) for t in (2, 5)]
    own = coco([(Source(Path("run1.mp4"), "day1/run1", True), Records({}, frames, True))])
    write(project, "coco.json", own)
    found, lines = read(project)
    assert lines == []
    assert set(found) == {("run1", 2), ("run1", 5)}
    assert np.array_equal(found["run1", 5].mask == SUBJECT, TRUTH[5])


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (80, 128)])
def test_brush_masks_are_read_as_they_are_written(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.3
    assert np.array_equal(brush_mask(brush_rle(mask), shape[::-1]) > 0, mask)


GOOD = f"{TABLE}run1,2,box,10,28,34,52\n"
"""A label that is right, and must take part beside any bad one."""

BAD: dict[str, tuple[str, str | list | dict | bytes, str]] = {
    "no such frame": ("a.csv", f"{TABLE}run1,700,box,1,1,9,9\nrun1,701,nothing,,,,\n", "a.csv: no such frame .*: 2 "),
    "no such video": ("a.csv", f"{TABLE}other,3,nothing,,,,\n", "no frame of these videos"),
    "box outside": ("a.csv", f"{TABLE}run1,3,box,200,10,300,40\n", "boxes outside of the image: 1 .run1/3"),
    "box mostly outside": ("a.csv", f"{TABLE}run1,3,box,-90,10,20,40\n", "boxes outside"),
    "box without area": ("a.csv", f"{TABLE}run1,3,box,20,10,20,40\n", "without an area"),
    "box that is no number": ("a.csv", f"{TABLE}run1,3,box,nan,10,20,40\n", "line 2"),
    "point outside": ("a.csv", f"{TABLE}run1,3,point,500,10,,\n", "points outside"),
    "half a line": ("a.csv", f"{TABLE}run1,3\n", "lines that are not"),
    "unknown word": ("a.csv", f"{TABLE}run1,3,circle,1,2,3,4\n", "lines that are not"),
    "another head": ("a.csv", "a,b\n1,2\n", "its first line must be"),
    "another data set": (
        "a.json",
        coco_file([{"category_id": 1, "bbox": [1, 2, 3, 4]}], "0001397133.jpg"),
        "another data",
    ),
    "images of another size": (
        "a.json",
        coco_file([{"category_id": 1, "bbox": [1, 2, 30, 40]}], size=(64, 48)),
        "64x48",
    ),
    "an image not listed": (
        "a.json",
        coco_file([{"category_id": 1, "image_id": 7, "bbox": [1, 2, 3, 4]}]),
        "annotation 9",
    ),
    "no box and no mask": ("a.json", coco_file([{"category_id": 1}]), "damaged"),
    "runs of too few pixels": (
        "a.json",
        coco_file([{"category_id": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [1, 2]}}]),
        "run lengths",
    ),
    "runs that are none": (
        "a.json",
        coco_file([{"category_id": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": "~~"}}]),
        "run lengths",
    ),
    "no JSON": ("a.json", "{", "no JSON"),
    "JSON of something": ("a.json", {"a": 1}, "neither COCO nor Label Studio"),
    "tasks of texts": ("a.json", [{"data": {"text": "a"}, "annotations": [{"result": 3}]}], "tasks"),
    "a brush of another size": (
        "a.json",
        studio_file([{"type": "brushlabels", "value": {"rle": brush_rle(TRUTH[3][:40])}}], "run1/frame_000003.jpg"),
        "a brush mask of",
    ),
    "no XML": ("a.xml", "<annotations>", "no XML"),
    "XML of something": ("a.xml", "<svg/>", "not CVAT's"),
    "a shape that is damaged": ("a.xml", cvat_image('<box label="subject" xtl="1"/>'), "damaged shapes .box."),
    "a mask that leaves the image": (
        "a.xml",
        cvat_image('<mask label="subject" rle="0,100" left="125" top="0" width="10" height="10"/>'),
        "leaves the image",
    ),
    "a mask that is none": ("run1/000003.png", b"nothing", "no readable image"),
    "a kind of file nobody knows": ("a.zip", b"PK", "no file of labels"),
    "bytes that are no text": ("a.csv", b"\xff\xfe\x00", "no text"),
    "a test video": ("a.csv", f"{TABLE}held,3,nothing,,,,\n", "not trained on .split test"),
    "a number in a folder of images": (
        "a.xml",
        cvat_track(f'<box frame="3" outside="0" {BOX}/>').replace("run1", "seqA"),
        "a frame's number in a folder of images",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_label_that_cannot_be_used_is_one_line_and_the_others_are_used(case: str, project: Path) -> None:
    name, content, said = BAD[case]
    write(project, "z.csv", GOOD)
    path = project / "labels" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else write(project, name, content)
    found, lines = read(project)
    assert set(found) == {("run1", 2)}
    assert len(lines) == 1, lines
    assert re.search(said, lines[0]), lines[0]
    assert name in lines[0]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ("run1,3,nothing,,,,\nrun1,3,box,12,28,36,52\n", "nothing is there, and something is"),
        ("run1,3,nothing,,,,\nrun1,3,present,,,,\n", "nothing is there, and something is"),
        ("run1,3,point,100,10,,\nrun1,3,box,12,28,36,52\n", "a point of the subject outside of it"),
        ("run1,3,point,20,40,,\nrun1,3,background,20,40,,\n", "a point of the subject on one of the background"),
    ],
)
def test_labels_of_a_frame_that_contradict_each_other_are_left_out(rows: str, why: str, project: Path) -> None:
    write(project, "a.csv", GOOD + rows)
    found, lines = read(project)
    assert set(found) == {("run1", 2)}
    assert lines == [f"labels/a.csv: contradictory labels ({why}): 1 (run1, 00003); left out"]


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (f"{TABLE}run1,3,box,80,10,100,30\n", "a mask outside of its box"),
        (f"{TABLE}run1,3,background,20,40,,\n", "a point of the background inside"),
        (f"{TABLE}run1,3,nothing,,,,\n", "nothing is there"),
        (coco_file([{"category_id": 1, "segmentation": encoded(np.roll(TRUTH[3], 12, axis=1))}]), "two masks"),
    ],
)
def test_a_mask_and_what_contradicts_it_are_left_out(second: str | dict, why: str, project: Path) -> None:
    write_mask(project / "labels" / "run1" / "000003.png", TRUTH[3])
    write(project, "b.csv" if isinstance(second, str) else "b.json", second)
    found, lines = read(project)
    assert found == {}
    assert len(lines) == 1
    assert why in lines[0]
    assert "run1/000003.png" in lines[0]


def test_a_mask_of_another_size_is_named(project: Path) -> None:
    write_mask(project / "labels" / "run1" / "000003.png", TRUTH[3][:, ::2])
    write(project, "z.csv", GOOD)
    found, lines = read(project)
    assert set(found) == {("run1", 2)}
    assert lines == [
        "labels/run1/000003.png: for images of 64x80, where the frames are 128x80: 1 (run1/000003.png); left out"
    ]


def test_two_subjects_are_both_the_subject(project: Path) -> None:
    other = np.roll(TRUTH[3], 60, axis=1)
    shapes = [{"category_id": 1, "segmentation": encoded(mask)} for mask in (TRUTH[3], other)]
    write(project, "a.json", coco_file(shapes))
    found, _ = read(project)
    assert np.array_equal(found["run1", 3].mask == SUBJECT, TRUTH[3] | other)


def test_an_image_that_nobody_labeled_says_nothing(project: Path) -> None:
    write(project, "a.json", coco_file([]))
    write(project, "b.xml", cvat_image(""))
    write(project, "c.json", [{"data": {"image": "run1/frame_000003.jpg"}, "annotations": []}])
    assert read(project) == ({}, [])


def test_predictions_of_a_task_that_somebody_worked_on_do_not_count(project: Path) -> None:
    tasks = studio_file([{"type": "rectanglelabels", "value": PERCENT}], "run1/frame_000003.jpg")
    tasks[0]["predictions"] = [{"result": [{"type": "brushlabels", "original_width": 1, "value": RLE}]}]
    write(project, "a.json", tasks)
    found, _ = read(project)
    assert found["run1", 3].mask is None
    tasks[0]["annotations"][0]["was_cancelled"] = True
    write(project, "a.json", tasks)
    assert read(project) == ({}, [])


def test_labels_lie_beside_the_videos_or_where_the_key_says(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    assert labels_place(str(videos), str(videos)) is None
    (videos / "Labels").mkdir()
    assert labels_place(str(videos), str(videos)) == videos / "Labels"
    assert labels_place(str(videos / "Labels"), str(tmp_path)) == videos / "Labels"
    (videos / "a.mp4").touch()
    assert labels_place(str(videos / "a.mp4"), str(videos / "a.mp4")) is None
    with pytest.raises(BackdropError, match=r"data\.labels .* does not exist"):
        labels_place(str(tmp_path / "gone"), str(videos))


# ------------------------------------------------------------------------------------------- what is learned


def still(t: int) -> np.ndarray:
    return scene(8)[0][t]


def textured(t: int) -> np.ndarray:
    """The same with a subject that flow can follow."""
    image = still(t).copy()
    texture = cv2.GaussianBlur(np.random.default_rng(9).integers(0, 256, (24, 24, 3)).astype(np.float32), (0, 0), 1.5)
    image[TRUTH[t]] = np.clip((texture - 128) * 3 + 128, 0, 255).astype(np.uint8).reshape(-1, 3)
    return image


BOX_OF_3 = ((LEFT / WIDTH, TOP / HEIGHT, RIGHT / WIDTH, BOTTOM / HEIGHT),)


def test_a_box_becomes_the_mask_on_which_both_proposals_agree() -> None:
    second = np.roll(TRUTH[3], 6, axis=1).astype(np.float32)
    loose = ((BOX_OF_3[0][0] - 0.06, BOX_OF_3[0][1] - 0.08, BOX_OF_3[0][2] + 0.06, BOX_OF_3[0][3] + 0.08),)
    plane = learned(still(3), FrameLabel(boxes=loose), second)
    assert (plane[TRUTH[3] & (second > 0)] == SUBJECT).mean() > 0.95
    assert (plane[TRUTH[3] ^ (second > 0)] == IGNORED).mean() > 0.9
    assert (plane[:20] == 0).all(), "outside of the box is background"
    assert (plane[:, 60:] == 0).all()


def test_where_the_second_proposal_saw_another_subject_grabcut_counts_alone() -> None:
    elsewhere = np.roll(TRUTH[3], 70, axis=1).astype(np.float32)
    for second in (elsewhere, None):
        loose = ((BOX_OF_3[0][0] - 0.06, BOX_OF_3[0][1] - 0.08, BOX_OF_3[0][2] + 0.06, BOX_OF_3[0][3] + 0.08),)
        plane = learned(still(3), FrameLabel(boxes=loose), second)
        assert (plane[TRUTH[3]] == SUBJECT).mean() > 0.6
        assert not (plane[~TRUTH[3]] == SUBJECT).any()
        assert (plane[28:52, 78:110] == 0).all()


@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.2, 0.2, 0.205, 0.21), (0.99, 0.99, 1.0, 1.0)])
def test_a_box_that_grabcut_cannot_take_leaves_its_inside_open(box: tuple[float, ...]) -> None:
    plane = learned(still(3), FrameLabel(boxes=(box,)), None)
    assert not (plane == SUBJECT).any()
    assert (plane == IGNORED).any()
    learned(np.zeros_like(still(3)), FrameLabel(boxes=(box, *BOX_OF_3)), None)


def test_a_point_chooses_the_part_of_the_proposal_that_it_lies_in() -> None:
    second = (TRUTH[3] | np.roll(TRUTH[3], 70, axis=1)).astype(np.float32)
    inside = (24 / WIDTH, 40 / HEIGHT)
    plane = learned(still(3), FrameLabel(points=(inside,)), second)
    assert (plane[TRUTH[3]] == SUBJECT).all()
    assert (plane[30:50, 84:104] == IGNORED).all()
    assert plane[5, 5] == 0
    plane = learned(still(3), FrameLabel(points=((0.5, 0.1),)), second)
    assert plane[8, 64] == SUBJECT
    assert (plane[second > 0] == IGNORED).all(), "the proposal missed the subject, and says nothing"


def test_a_tag_opens_an_empty_pseudo_mask_and_leaves_any_other_alone() -> None:
    empty, drawn = np.zeros(TRUTH[3].shape, np.uint8), np.where(TRUTH[3], SUBJECT, 0).astype(np.uint8)
    assert (of_tag(empty, None, None) == IGNORED).all(), "no student yet"
    assert (of_tag(empty, None, empty.astype(np.float32)) == IGNORED).all(), "nothing excites it"
    assert np.array_equal(of_tag(drawn, None, TRUTH[5].astype(np.float32)), drawn)


def test_a_tag_is_the_faint_part_of_the_students_mask_where_it_is_most_active() -> None:
    activation = np.zeros(TRUTH[3].shape, np.float32)
    activation[40, 24] = 1
    faint = 0.1 * TRUTH[3] + 0.09 * np.roll(TRUTH[3], 70, axis=1)
    plane = of_tag(np.full(TRUTH[3].shape, IGNORED, np.uint8), faint.astype(np.float32), activation)
    assert np.array_equal(plane == SUBJECT, TRUTH[3])
    assert (plane[~TRUTH[3]] == IGNORED).all(), "of the rest nothing is known"
    alone = of_tag(np.zeros(TRUTH[3].shape, np.uint8), np.roll(faint, 30, axis=0).astype(np.float32), activation)
    assert alone[40, 24] == SUBJECT
    assert 0 < (alone == SUBJECT).sum() < 20, "a spot, where the mask shows something else"


def test_a_mask_counts_as_it_is() -> None:
    mask = np.where(TRUTH[3], SUBJECT, 0).astype(np.uint8)
    assert np.array_equal(learned(still(3), FrameLabel(mask), None), mask)


def test_a_mask_is_carried_along_the_flow_and_open_where_the_flow_is_not_sure() -> None:
    found = carried(np.where(TRUTH[3], SUBJECT, 0).astype(np.uint8), 3, 6, textured)
    assert set(found) == {4, 5, 6}
    for t, plane in found.items():
        assert (plane[cv2.erode(TRUTH[t].astype(np.uint8), np.ones((5, 5))) > 0] == SUBJECT).mean() > 0.75
        assert (plane[~TRUTH[t]] == SUBJECT).mean() < 0.02
        assert (plane[~TRUTH[t]] == 0).mean() > 0.8
    back = carried(np.where(TRUTH[3], SUBJECT, 0).astype(np.uint8), 3, 1, textured)
    assert (back[1][cv2.erode(TRUTH[1].astype(np.uint8), np.ones((5, 5))) > 0] == SUBJECT).mean() > 0.75


def test_a_label_teaches_its_frame_and_a_few_around_it_and_the_nearest_one_counts() -> None:
    mask = FrameLabel(np.full((4, 4), SUBJECT, np.uint8))
    assert taught_frames({3: mask}, 20, 2) == {3: 3, 2: 3, 4: 3, 0: 3, 6: 3}
    assert taught_frames({0: mask, 6: mask}, 20, 2) == {0: 0, 6: 6, 2: 0, 4: 6, 8: 6, 10: 6}
    assert taught_frames({5: FrameLabel(np.zeros((4, 4), np.uint8))}, 20, 1) == {5: 5}, "a subject may come in"
    assert taught_frames({5: FrameLabel(points=((0.5, 0.5),))}, 20, 1) == {5: 5}
    assert len(taught_frames({50: mask}, 100, 1)) == 2 * CARRY + 1
