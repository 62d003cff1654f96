"""Training frames on a budget: which bursts are drawn, and that every frame of the videos still gets its mask."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import yaml

from backdrop.app.project.summary import summary
from backdrop.app.review.choice import candidates, choose
from backdrop.app.review.tasks import write_review
from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError
from backdrop.frames.budget import videos as budget_videos
from backdrop.frames.budget.choice import Burst, choose_bursts
from backdrop.frames.budget.watch import BURST, Offer, Watcher
from backdrop.frames.parameters import DataParams
from backdrop.frames.stage import extract_all
from backdrop.io.archives import ArchiveWriter
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import encode_png
from backdrop.io.index import read_index, read_videos, trained_frames, trained_sequences
from backdrop.io.masks import MaskArchive, Predictions, entry, write_threshold
from backdrop.networks.predictor import Predictor
from backdrop.refine import stage as refine_stage
from backdrop.refine.stage import RefineFolders, refine_all
from backdrop.refine.worth import crf_worth
from backdrop.score.frame_scores import ScoreFolders
from backdrop.score.sheets import contact_sheet_all
from backdrop.score.table import score_all
from backdrop.segment import stage as segment_stage
from backdrop.segment.parameters import SegmentParams
from backdrop.segment.stage import SegmentFolders, segment_all
from backdrop.student.labels.footage import Footage, StoredFrame
from backdrop.student.labels.label import Label
from backdrop.video.decode import decode_video
from backdrop.video.encode import encode_video
from backdrop.video.streamed import StreamedFrames
from tests.handmade_run import write_masks, write_predictions
from tests.small_pipeline import contents, small_params, small_values, write_model

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, HEIGHT = 96, 64
COUNT = {"long": 70, "short": 40, "stills": 36}
"""Frames of each: two videos and a folder of images."""

BUDGET = 100
PATTERN = np.random.default_rng(3).integers(40, 215, (HEIGHT, WIDTH), np.uint8)


def scene(t: int, background: np.ndarray = PATTERN) -> np.ndarray:
    """A dark square that walks to and fro, and up and down, gray."""
    image = background.copy()
    x, y = abs(2 * t % 148 - 74), abs(round(0.6 * t) % 88 - 44)
    image[y : y + 20, x : x + 18] = 5
    return image


def colored(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[:, :, None], 3, axis=2)


def section(root: Path, **changed: object) -> DataParams:
    values = {"layout": "videos", "root": str(root), "path": str(root), "labels": str(root)}
    values |= {"roi": None, "roi_path": str(root), "size": None, "every": 1, "limit": None}
    others = {"budget": BUDGET, "protocol": "self", "val": [], "test": [], "only": [], "strict": False, "quality": 90}
    return DataParams.model_validate({**values, **others, **changed})


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("budget") / "videos"
    (root / "stills").mkdir(parents=True)
    for name in ("long", "short"):
        encode_video(root / f"{name}.mp4", [colored(scene(t)) for t in range(COUNT[name])], 25.0)
    for t in range(COUNT["stills"]):
        cv2.imwrite(str(root / "stills" / f"{t:04d}.png"), scene(t))
    (root / "masks" / "long").mkdir(parents=True)
    for t in (10, 60):
        cv2.imwrite(str(root / "masks" / "long" / f"{t:06d}.png"), (scene(t) == 5).astype(np.uint8) * 255)
    return root


@pytest.fixture(scope="module")
def frames(footage: Path) -> Path:
    extract_all(section(footage), footage.parent / "frames")
    return footage.parent / "frames"


@pytest.fixture(scope="module")
def model(footage: Path) -> Path:
    return write_model(footage.parent / "model")


def watch(grays: list[np.ndarray], limit: int = 100) -> list[Offer]:
    watcher = Watcher(limit)
    for gray in grays:
        watcher.add(gray)
    return watcher.offers()


def drawn_frames(offers: list[Offer], budget: int = 1000) -> set[int]:
    bursts = choose_bursts({"video": offers}, budget)["video"]
    return {t for burst in bursts for t in range(burst.start, burst.start + burst.length)}


# ------------------------------------------------------------------------------------- which bursts are drawn


def test_a_restless_video_is_no_row_of_cuts() -> None:
    """From the first frame on, all changes by more than a cut needs."""
    noise = np.random.default_rng(0)
    grays = [cv2.resize(noise.integers(0, 256, (9, 16), np.uint8), (WIDTH, HEIGHT)) for _ in range(2 * BURST)]
    assert [offer.length for offer in watch(grays)] == [BURST, BURST]


def test_still_stretches_are_left_out() -> None:
    noise = np.random.default_rng(0)

    def noisy(image: np.ndarray) -> np.ndarray:
        return np.clip(image + noise.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8)

    found = drawn_frames(watch([noisy(scene(t if t < 96 else 96)) for t in range(300)]))
    assert len(found) >= BURST
    assert max(found) < 144, "the noise of a camera is no motion"


def test_no_burst_goes_across_a_cut_and_a_pan_is_none() -> None:
    other = np.random.default_rng(4).integers(120, 255, PATTERN.shape, np.uint8)
    grays = [scene(t, PATTERN if t < 70 else other) for t in range(140)]
    offers = watch([cv2.GaussianBlur(gray, (0, 0), 3) for gray in grays])
    spans = [(offer.start, offer.start + offer.length) for offer in offers]
    assert (70, 118) in spans
    assert not any(begin < 70 < end for begin, end in spans)
    wide = cv2.resize(PATTERN[:8, :12], (960, HEIGHT))
    assert len(watch([wide[:, 6 * t : 6 * t + WIDTH] for t in range(96)])) == 2, "a fast pan"


def test_blurred_stretches_are_left_out() -> None:
    grays = [cv2.GaussianBlur(scene(t), (0, 0), 4) if 96 <= t < 192 else scene(t) for t in range(384)]
    found = drawn_frames(watch(grays))
    assert found
    assert not found & set(range(96, 192))


def test_what_repeats_is_drawn_once() -> None:
    loop = [scene(t) for t in range(96)]
    assert drawn_frames(watch(loop * 4)) == set(range(96))


def test_frames_that_are_lost_end_a_burst() -> None:
    watcher = Watcher(10)
    for t in range(80):
        watcher.add(scene(t), follows=t != 40)
    assert [(offer.start, offer.length) for offer in watcher.offers()] == [(0, 40), (40, 40)]


def test_memory_does_not_grow_with_the_video() -> None:
    offers = watch([scene(t) for t in range(200)] * 20, limit=4)
    assert 4 <= len(offers) <= 9
    assert offers[-1].start > 3000, "and the end is not forgotten"


def an_offer(start: int, moving: float = 1.0, sharp: float = 1.0) -> Offer:
    looks = np.random.default_rng(start).integers(0, 255, (3, 18, 32), np.uint8)
    return Offer(start, BURST, moving, sharp, looks)


def test_bursts_are_spread_over_videos_and_time_within_the_budget() -> None:
    offers = {name: [an_offer(BURST * k) for k in range(count)] for name, count in (("a", 100), ("b", 20), ("c", 1))}
    found = choose_bursts(offers, 1000)
    assert sum(burst.length for bursts in found.values() for burst in bursts) == 1000 // BURST * BURST
    assert len(found["a"]) > 3 * len(found["b"]) > 3 * len(found["c"]) == 3
    places = np.array([burst.start for burst in found["a"]]) / (100 * BURST)
    assert np.allclose(places, (np.arange(len(places)) + 0.5) / len(places), atol=0.05)


def test_of_neighbors_the_burst_is_drawn_in_which_the_subject_goes_somewhere() -> None:
    """Every third burst is a walk; in the others the subject turns on the spot, sharper than where it walks."""
    images = []
    for k in range(12):
        for t in range(BURST):
            image = np.full((HEIGHT, WIDTH), 200, np.uint8)
            x, y = (4 + 1.5 * t, 10 + 4 * k) if k % 3 == 2 else (30 + 5 * (t // 8 % 2), 10 + 4 * k)
            cv2.rectangle(image, (int(x), int(y)), (int(x) + 12, int(y) + 8), 10, -1)
            images.append(cv2.GaussianBlur(image, (0, 0), 1.0 if k % 3 == 2 else 0.8))
    offers = watch(images)
    assert [offer.moving > 0.5 for offer in offers] == [True] * 12
    chosen = choose_bursts({"a": offers}, 4 * BURST)["a"]
    assert [burst.start // BURST for burst in chosen] == [2, 5, 8, 11]
    few = watch(images, limit=2)
    assert {offer.start // BURST % 3 for offer in few} == {2}, "also where a long video keeps some of its bursts"


def test_of_a_moving_camera_the_middle_burst_of_each_part_is_drawn() -> None:
    wide = cv2.resize(PATTERN, (WIDTH + 12 * BURST, HEIGHT), interpolation=cv2.INTER_NEAREST)
    offers = watch([wide[:, t : t + WIDTH] for t in range(12 * BURST)])
    chosen = choose_bursts({"a": offers}, 4 * BURST)["a"]
    assert [burst.start // BURST for burst in chosen] == [1, 4, 7, 10]


@pytest.mark.parametrize(("videos", "budget"), [(5, 100), (50, 1000), (300, 1000)])
def test_more_videos_than_whole_bursts_give_shorter_ones(videos: int, budget: int) -> None:
    found = choose_bursts({f"{k:03d}": [an_offer(0), an_offer(BURST)] for k in range(videos)}, budget)
    assert 0.7 * budget <= sum(burst.length for bursts in found.values() for burst in bursts) <= budget
    assert len(found) == min(videos, budget // 16)


def test_a_video_that_stands_still_gives_its_liveliest_burst() -> None:
    offers = {"still": [an_offer(0, 0.0), an_offer(48, 0.3), an_offer(96, 0.1)], "other": [an_offer(0)] * 9}
    assert [burst.start for burst in choose_bursts(offers, 1000)["still"]] == [48]


# ------------------------------------------------------------------------------------- what the stages make of it


def test_archives_hold_budget_frames_alone_and_the_table_of_videos_all(frames: Path, footage: Path) -> None:
    index, videos = read_index(frames), read_videos(frames)
    assert videos["sequence"].tolist() == ["long", "short", "stills"]
    assert dict(zip(videos["sequence"], videos["frames"], strict=True)) == COUNT
    assert set(index["sequence"].str.split("@").str[0]) == set(COUNT)
    assert 0 < index["frames"].sum() <= BUDGET
    archives = {path.stem for path in frames.glob("*.zip")}
    assert archives == {*index["sequence"], *COUNT}
    burst = FrameArchive(frames / f"{index['sequence'][0]}.zip")
    numbers = [int(name) for name in burst.names]
    assert numbers == list(range(numbers[0], numbers[0] + len(burst)))
    decoded = {t: image for t, _, image in decode_video(footage / "long.mp4")}
    assert np.abs(burst.image(3).astype(int) - decoded[numbers[3]]).mean() < 4
    streamed = StreamedFrames(frames / "long.zip")
    assert np.array_equal(streamed.image(60), decoded[60])
    assert np.array_equal(streamed.image(7), decoded[7]), "backwards, too"
    assert 12 <= len(streamed.pictured()) <= 24
    assert [t for t in range(70) if streamed.has_mask(t)] == [10, 60]


def test_no_more_frames_than_the_budget_are_stored_as_without_one(footage: Path, tmp_path: Path) -> None:
    extract_all(section(footage, budget=146), tmp_path / "within")
    extract_all(section(footage, budget=0), tmp_path / "none")
    assert contents(tmp_path / "within") == contents(tmp_path / "none")


def test_held_out_videos_are_segmented_and_never_drawn(footage: Path, tmp_path: Path) -> None:
    extract_all(section(footage, protocol="held_out", test=["short"]), tmp_path / "out")
    assert set(read_index(tmp_path / "out")["split"]) == {"train"}
    assert not any(name.startswith("short") for name in read_index(tmp_path / "out")["sequence"])
    assert (tmp_path / "out" / "short.zip").is_file()
    assert not (tmp_path / "out" / "long.zip").exists(), "for training alone"


def segment(
    frames: Path,
    model: Path,
    out: Path,
    workers: int = 1,
    temporal: int = 0,
    paper: Literal["scored", "all"] = "scored",
) -> None:
    params = SegmentParams(threshold=0.5, temporal=temporal, batch=4, paper=paper)
    folders = SegmentFolders(model, frames, out / "soft", out / "soft_paper", out / "runs")
    segment_all(folders, params, workers, "cpu", lambda *_: (0.5, "default"))


def stop_at_mask(number: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The stage refine is stopped before it writes a mask; an entry of the list for each that it began."""
    begun: list[int] = []
    encode = refine_stage.encode_png

    def stopped(image: np.ndarray) -> bytes:
        begun.append(1)
        if len(begun) == number:
            raise KeyboardInterrupt
        return encode(image)

    monkeypatch.setattr(refine_stage, "encode_png", stopped)
    return begun


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_stage, "STREAMED_CHUNK", 16)
    monkeypatch.setattr(refine_stage, "STREAMED_REFINE_CHUNK", 16)


def test_every_frame_gets_its_mask_and_a_killed_run_goes_on(
    frames: Path, model: Path, footage: Path, tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(frames, model, tmp_path / "whole")
    soft = tmp_path / "whole" / "soft"
    assert {path.stem: len(Predictions(path)) for path in soft.glob("*.zip")} == COUNT
    predictor = Predictor.load(model, "cpu")
    decoded = {t: image for t, _, image in decode_video(footage / "long.mp4")}
    for t in (0, 37, 69):
        expected, stored = predictor.predict(decoded[t]).mask, Predictions(soft / "long.zip").soft(t)
        assert np.abs(stored - expected).max() <= 0.5 / 63 + 0.5 / 255 + 1e-4
        assert len(np.unique(stored)) <= segment_stage.STREAMED_LEVELS

    calls, kinds, stop = [], segment_stage._predict_kinds, 25

    def counted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return kinds(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(segment_stage, "_predict_kinds", counted)
    with pytest.raises(KeyboardInterrupt):
        segment(frames, model, tmp_path / "killed")
    for name in ("soft", "soft_paper"):  # as DVC removes outputs before a run
        shutil.rmtree(tmp_path / "killed" / name, ignore_errors=True)
    segment(frames, model, tmp_path / "killed")
    batches = sum(-(-count // 4) for count in COUNT.values())
    assert len(calls) <= batches + 1 + 4, "at most the chunk that was under way is made twice"
    assert contents(tmp_path / "killed" / "soft") == contents(soft)
    assert not any((tmp_path / "killed" / "runs").iterdir())


def test_d_and_s_are_asked_where_there_is_truth_alone(
    frames: Path, model: Path, tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, synthesis = [], Predictor._by_synthesis
    monkeypatch.setattr(Predictor, "_by_synthesis", lambda *a: calls.append(1) or synthesis(*a))
    segment(frames, model, tmp_path)
    paper, truth = tmp_path / "soft_paper", [10, 60]
    assert len(calls) == len(truth), "a batch for each"
    found = Predictions(paper / "long.zip")
    assert [t for t in range(COUNT["long"]) if found.has(t)] == truth
    segment(frames, model, tmp_path / "all", paper="all")
    every = Predictions(tmp_path / "all" / "soft_paper" / "long.zip")
    assert len(every) == COUNT["long"]
    assert all((every.soft(t) == found.soft(t)).all() for t in truth)
    assert (every.box == found.box).all(), "D's boxes of all frames, for poses"

    crf = small_params().crf.model_copy(update={"enabled": True})
    assert isinstance(crf, CRFParams)
    folders = RefineFolders(frames, paper, tmp_path / "masks", kept=tmp_path / "runs", truth_alone=True)
    with pytest.raises(BackdropError, match="soft_paper/long.zip, frame 0"):
        refine_all(replace(folders, truth_alone=False), crf, 0.5, 1)
    encoded = stop_at_mask(2, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        refine_all(folders, crf, 0.5, 1)
    refine_all(folders, crf, 0.5, 1)
    assert len(encoded) == 3, "the first one was kept"
    masks = MaskArchive(tmp_path / "masks" / "long.zip")
    assert [t for t in range(COUNT["long"]) if masks.has(t)] == truth


def test_the_same_bytes_in_two_processes_with_masks_pooled_over_time(
    frames: Path, model: Path, tmp_path: Path, small_chunks: None
) -> None:
    segment(frames, model, tmp_path / "one", temporal=2)
    segment(frames, model, tmp_path / "two", workers=2, temporal=2)
    assert contents(tmp_path / "one" / "soft") == contents(tmp_path / "two" / "soft")


@pytest.mark.parametrize(
    ("videos", "frames", "workers", "expected"),
    [
        (1, 5000, 2, 16),  # each process in turn
        (3, 5000, 2, 16),
        (4, 5000, 2, 5008),  # a whole video at a time
        (24, 4660, 16, 2336),  # half a video
        (4, 50_000, 2, 8192),
        (5, 40, 1, 16),
    ],
)
def test_processes_get_long_pieces_where_there_are_enough_videos(
    videos: int, frames: int, workers: int, expected: int
) -> None:
    counts = {f"v{k}": frames - k for k in range(videos)}
    assert segment_stage._turn_frames(counts, 16, workers) == expected


def test_chunks_are_the_same_in_long_pieces(
    frames: Path, model: Path, tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(frames, model, tmp_path / "short")
    monkeypatch.setattr(segment_stage, "_turn_frames", lambda *_: 48)
    segment(frames, model, tmp_path / "long")
    assert contents(tmp_path / "long" / "soft") == contents(tmp_path / "short" / "soft")


def _left(parts: AbstractContextManager[Path]) -> Path:
    """What a run that is killed leaves."""
    folder = parts.__enter__()
    (folder / "shipped" / "long.0.zip").touch()
    parts.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    return folder


def test_other_footage_or_another_model_takes_nothing_from_a_killed_run(
    frames: Path, model: Path, tmp_path: Path
) -> None:
    params = SegmentParams(threshold=0.5, temporal=0, batch=4, paper="scored")
    folders = SegmentFolders(model, frames, tmp_path / "soft", tmp_path / "soft_paper", tmp_path / "runs")
    first = _left(segment_stage._parts(folders, params, ["long"]))
    assert _left(segment_stage._parts(folders, params, ["long"])) == first
    assert (first / "shipped" / "long.0.zip").is_file()
    other = params.model_copy(update={"temporal": 1})
    with segment_stage._parts(folders, other, ["long"]) as parts:
        assert not any(parts.rglob("*.zip"))
        assert not first.exists(), "what nobody takes up is removed"


@pytest.mark.parametrize("enabled", [True, False])
def test_refined_masks_of_every_frame_and_their_scores(
    enabled: bool, frames: Path, model: Path, tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(frames, model, tmp_path)
    masks, crf = tmp_path / "masks", small_params().crf.model_copy(update={"enabled": enabled})
    assert isinstance(crf, CRFParams)
    folders = RefineFolders(frames, tmp_path / "soft", masks, tmp_path / "davis", tmp_path / "runs")
    if enabled:
        calls = stop_at_mask(90, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            refine_all(folders, crf, 0.5, 1)
        refine_all(folders, crf, 0.5, 1)
        assert len(calls) <= sum(COUNT.values()) + 16, "the rest alone"
        assert not any((tmp_path / "runs").iterdir())
    else:
        monkeypatch.setattr(StreamedFrames, "image", lambda *_: pytest.fail("decoded without need"))
        refine_all(folders, crf, 0.5, 1)
    assert {path.stem: len(MaskArchive(path)) for path in masks.glob("*.zip")} == COUNT
    assert len(list((tmp_path / "davis" / "Annotations" / "long").glob("*.png"))) == COUNT["long"]
    monkeypatch.undo()
    write_threshold(masks, 0.5, "default")
    soft = tmp_path / "soft"
    nowhere = tmp_path / "nowhere"
    found = score_all(ScoreFolders(frames, soft, masks, soft, masks, nowhere, nowhere), "videos", 1)
    assert (found.summary["frames_scored"], found.summary["sequences"]) == (2, 1)
    assert "baselines" not in found.summary, "they need flow of all frames"
    assert found.summary["method"]["J_mean"] >= 0
    folders_of_sheets = ScoreFolders(frames, soft, masks, soft, masks, nowhere, nowhere)
    assert len(contact_sheet_all(folders_of_sheets, tmp_path / "sheets", list(COUNT), found.per_frame)) == 3


# ------------------------------------------------------------------------------------- bad input


def _gone(root: Path) -> None:
    (root / "short.mp4").rename(root / "elsewhere.mp4")


def _grown(root: Path) -> None:
    with (root / "short.mp4").open("ab") as stream:
        stream.write(b"more")


def _flipped(root: Path) -> None:
    data = bytearray((root / "short.mp4").read_bytes())
    data[len(data) // 2] ^= 255
    (root / "short.mp4").write_bytes(data)


def _image_gone(root: Path) -> None:
    (root / "stills" / "0003.png").unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_gone, "short.mp4 is not there any more"),
        (_grown, "short.mp4 is not what it was"),
        (_flipped, "short.mp4 is not what it was"),
        (_image_gone, "0003.png is not there any more"),
    ],
)
def test_footage_that_is_gone_or_has_changed_is_named_before_work_begins(
    change: object, words: str, footage: Path, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(footage, tmp_path / "videos")
    extract_all(section(tmp_path / "videos"), tmp_path / "frames")
    change(tmp_path / "videos")  # type: ignore[operator]
    with pytest.raises(BackdropError, match=words) as fault:
        segment(tmp_path / "frames", model, tmp_path)
    assert "\n" not in str(fault.value)
    assert not list((tmp_path / "soft").glob("*.zip"))


def test_a_video_that_grows_while_it_is_read_is_left_out_by_name(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(footage, tmp_path / "videos")
    for k in range(2):  # so that the others are more than the budget
        shutil.copy(footage / "short.mp4", tmp_path / "videos" / f"copy{k}.mp4")
    add = Watcher.add

    def growing(self: Watcher, gray: np.ndarray, follows: bool = True) -> None:
        if self._count == 50:  # the long video alone has so many
            with (tmp_path / "videos" / "long.mp4").open("ab") as stream:
                stream.write(b"more")
        add(self, gray, follows)

    monkeypatch.setattr(Watcher, "add", growing)
    extract_all(section(tmp_path / "videos"), tmp_path / "frames")
    row = read_videos(tmp_path / "frames").set_index("sequence").loc["long"]
    assert row["status"] == "skipped"
    assert "changed while it was read" in row["reason"]
    assert not (tmp_path / "frames" / "long.zip").exists()


def test_a_budget_that_teaches_nothing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too few frames to train on"):
        section(tmp_path, budget=50)


# ------------------------------------------------------------------------------------- labels, and which would help


def test_a_label_of_a_video_finds_the_burst_that_holds_its_frame(frames: Path) -> None:
    archives = [FrameArchive(frames / f"{name}.zip") for name in read_index(frames, usable=True).sequence]
    last = [archive for archive in archives if archive.path.stem.startswith("long")][-1]
    known, number = Footage(frames, archives), int(last.names[3])
    for image, stated in (("long.mp4", number), (f"long/{number:06d}.png", None), (f"long--{number:06d}.jpg", None)):
        assert known.find(Label("a file", image, "nothing", None, None, stated)) == StoredFrame(last.path.stem, 3)
    drawn = {int(name) for archive in archives if archive.path.stem.startswith("long") for name in archive.names}
    left_out = next(t for t in range(COUNT["long"]) if t not in drawn)
    assert "data.budget" in str(known.find(Label("a file", "long.mp4", "nothing", None, None, left_out)))


def test_the_crf_is_told_by_the_frames_of_bursts_in_the_masks_of_their_video(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_videos, "choose_bursts", lambda *_: {"long": [Burst(20, 30)]})
    frames = tmp_path / "frames"
    extract_all(section(footage), frames)
    masks = {t: scene(t) == 5 for t in range(COUNT["long"])}
    write_predictions(tmp_path / "soft", "long", masks, [np.array([0.0, 0, 1, 1])] * len(masks))
    write_threshold(tmp_path / "soft", 0.5, "default")
    bursts = [str(name) for name in read_index(frames, usable=True).sequence if str(name).startswith("long")]
    for burst in bursts:
        numbers = [int(name) for name in FrameArchive(frames / f"{burst}.zip").names]
        assert numbers[0] == 20, "else places would do for numbers"
        write_masks(tmp_path / "pseudo", burst, {t: masks[number] for t, number in enumerate(numbers)})
    folders = RefineFolders(frames, tmp_path / "soft", tmp_path / "masks")
    found = crf_worth(folders, tmp_path / "pseudo", small_params().crf, 1)
    assert found is not None
    assert found.without == 1, "each frame with the mask of its own number"
    assert found.frames >= len(bursts)


def test_review_looks_at_bursts_with_the_masks_of_their_video(frames: Path, footage: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(frames, data / "frames")
    values = small_values({"data.layout": "videos", "data.protocol": "self", "data.root": str(footage)})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    bursts = [name for name in read_index(frames, usable=True).sequence if str(name).startswith("long")]
    doubtful = int(FrameArchive(frames / f"{bursts[-1]}.zip").names[5])
    for name, count in COUNT.items():
        masks = [scene(t) == 5 for t in range(count)]
        soft = {t: mask * (0.3 if name == "long" and t == doubtful else 0.99) for t, mask in enumerate(masks)}
        write_predictions(data / "predictions", name, soft, [np.array([0.0, 0, 1, 1])] * count)
        (data / "masks").mkdir(exist_ok=True)
        with ArchiveWriter(data / "masks" / f"{name}.zip") as archive:
            for t, mask in enumerate(masks):
                archive.add(entry(t), encode_png(mask.astype(np.uint8) * 255))
    found = candidates(tmp_path)
    worst = min(found, key=lambda one: one.sure)
    assert (worst.sequence, worst.t, worst.video, worst.place) == (bursts[-1], 5, "long", doubtful)
    assert trained_frames(data / "frames") <= BUDGET < sum(COUNT.values())
    assert set(trained_sequences(data / "frames").values()) == set(COUNT), "bursts are told by their videos"
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "scores.json").write_text('{"frames_scored": 0}')
    drawn = trained_frames(data / "frames")
    assert f"Training saw {drawn} of {sum(COUNT.values())} frames (data.budget)." in summary(tmp_path)
    first = choose(found, 3)
    assert len({one.video for one in first}) == 3, "each video gets one before any gets two"
    write_review(tmp_path, [worst], tmp_path / "review")
    assert [path.name for path in (tmp_path / "review" / "images").iterdir()] == [f"{bursts[-1]}--{doubtful:06d}.jpg"]
