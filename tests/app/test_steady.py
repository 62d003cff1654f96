"""`backdrop export --steady`: boxes and numbers of a video, and nothing else, change."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backdrop.app.exports import export_all
from backdrop.app.exports.common import ExportChoices, Recorded, recorded
from backdrop.app.exports.tracks import steadied, tracks
from backdrop.app.records import encoded
from tests.app.exported import FRAMES, HEIGHT, WIDTH, write_material, write_results
from tests.backdrop_command import call

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def done(tmp_path: Path) -> Path:
    return write_results(write_material(tmp_path / "in"), tmp_path / "done")


def video(done: Path) -> Recorded:
    return next((source, records) for source, records in recorded(done) if source.video)


def test_a_track_goes_on_where_the_mask_is_missing_for_a_few_frames(done: Path, tmp_path: Path) -> None:
    status, said = call("export", done, "-o", tmp_path / "x", "-f", "cvat", "--steady")
    assert status == 0, said
    (track,) = ET.parse(tmp_path / "x" / "cvat" / "run.xml").getroot().findall("track")
    assert {box.get("outside") for box in track} == {"0"}
    assert [int(track[k].get("frame", "")) for k in (0, -1)] == [0, FRAMES - 1]


def test_rows_of_the_table_without_a_mask_have_a_box(done: Path, tmp_path: Path) -> None:
    tables = {}
    for name, steady in (("plain", False), ("steady", True)):
        export_all(recorded(done), tmp_path / name, ["csv"], ExportChoices(steady=steady))
        tables[name] = pd.read_csv(tmp_path / name / "csv" / "frames.csv")
    plain, steady = tables["plain"], tables["steady"]
    other = [column for column in plain if not column.startswith("box_") and column != "identity"]
    assert plain[other].equals(steady[other]), "what is measured on masks stays"
    rows = steady[(steady["video"] == "run") & (steady["area"] == 0)]
    assert rows["frame"].tolist() == [5, 6]
    assert rows["identity"].tolist() == [1, 1]
    assert np.abs(rows["box_left"] - (40 + 5 * rows["frame"] - 16)).max() <= 2
    assert rows["centroid_x"].isna().all()
    images = steady["video"] != "run"
    pd.testing.assert_frame_equal(plain[images], steady[images], check_dtype=False)


def test_masks_stay(done: Path, tmp_path: Path) -> None:
    for name, steady in (("plain", False), ("steady", True)):
        export_all(recorded(done), tmp_path / name, ["coco", "davis", "yolo"], ExportChoices(steady=steady))
    for file in (tmp_path / "plain").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "steady" / file.relative_to(tmp_path / "plain")).read_bytes()


def test_a_lost_number_comes_back_in_every_format(tmp_path: Path) -> None:
    done = write_results(write_material(tmp_path / "in"), tmp_path / "done", subjects=2)
    source, records = video(done)
    frames = []
    for record in records.frames:
        parts = record.instances
        if parts and record.frame > 6:  # the disk's new number after the gap
            parts = tuple(sorted(part._replace(number=3) if part.number == 1 else part for part in parts))
        frames.append(record._replace(instances=parts))
    assert set(tracks(records._replace(frames=frames))) == {1, 2, 3}
    ((_, steady),) = steadied([(source, records._replace(frames=frames))])
    assert set(tracks(steady)) == {1, 2}
    for before, after in zip(records.frames, steady.frames, strict=True):
        assert before.instances == after.instances


@pytest.mark.parametrize("every", [1, 5])
def test_frames_that_were_left_out_are_no_gap(every: int, done: Path) -> None:
    source, records = video(done)
    sparse = records._replace(frames=[record._replace(frame=every * record.frame) for record in records.frames])
    ((_, steady),) = steadied([(source, sparse)])
    (run,) = tracks(steady)[1]
    assert (run.keys[0].frame, run.keys[-1].frame, run.after) == (0, every * (FRAMES - 1), None)


def test_what_has_no_track_stays_as_it_is(done: Path) -> None:
    source, records = video(done)
    nothing = encoded(np.zeros((HEIGHT, WIDTH), bool))
    empty = records._replace(frames=[record._replace(mask=nothing) for record in records.frames])
    assert steadied([(source, empty)]) == [(source, empty)]
    assert steadied([(source, records._replace(frames=[]))]) == [(source, records._replace(frames=[]))]
    ((_, single),) = steadied([(source, records._replace(frames=records.frames[:1]))])
    assert tracks(single) == tracks(records._replace(frames=records.frames[:1]))
    small = records.frames[-1]._replace(size=(8, 6), mask=encoded(np.ones((6, 8), bool)))
    changed = records._replace(frames=[*records.frames[:-1], small])
    assert steadied([(source, changed)])[0][1].boxes is None, "its size changes"


def test_boxes_stay_in_the_image(done: Path) -> None:
    source, records = video(done)
    ((_, steady),) = steadied([(source, records)])
    for boxes in steady.boxes or []:
        for left, top, right, bottom in boxes.values():
            assert 0 <= left < right <= WIDTH
            assert 0 <= top < bottom <= HEIGHT
