"""A corpus of broken and odd footage through the stages, and generated damage to every kind of file that is read.

What a single fault says and does is in `test_bad_input`, `test_frames` and `test_video`; here all faults lie side by
side, and whatever is whole among them comes out as if it lay alone.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backdrop.errors import BackdropError
from backdrop.frames.extract import extract_sequence
from backdrop.frames.layouts.listing import Sequence
from backdrop.frames.stage import extract_all
from backdrop.io.archives import ArchiveWriter
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import MAX_PIXELS, decode_image, encode_png
from backdrop.io.index import INDEX_COLUMNS, read_index
from backdrop.io.mask_images import decode_mask
from backdrop.io.masks import MaskArchive, Predictions
from backdrop.motion.flow_field import FlowArchive
from backdrop.motion.homography import load_homographies
from backdrop.params import Params, read, validate
from backdrop.video.decode import probe
from backdrop.video.encode import Presentation, encode_video
from tests.handmade_run import make_run, scene
from tests.small_pipeline import ROOT, run_stage, small_values, stage_names

FRAMES = 6
VIDEOS = {"data.layout": "videos", "data.root": "clips", "data.protocol": "self"}
GOOD = ("good_video", "good_images")


def moving(frames: int = FRAMES, seed: int = 0) -> list[np.ndarray]:
    return scene(frames, seed)[0]


def noise(frames: int = FRAMES) -> list[np.ndarray]:
    """Each frame costs the same number of bytes, so that half the file is half the frames."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(frames)]


def folder(path: Path, frames: list[np.ndarray], suffix: str = ".png") -> Path:
    path.mkdir(parents=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{t:05d}{suffix}")
    return path


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def without_atom(name: bytes) -> Callable[[bytes], bytes]:
    """An MP4 without one of its outermost atoms."""

    def change(data: bytes) -> bytes:
        kept, at = b"", 0
        while at < len(data):
            size, kind = struct.unpack(">I4s", data[at : at + 8])
            kept += b"" if kind == name else data[at : at + size]
            at += size
        assert len(kept) < len(data)
        return kept

    return change


def masks(clips: Path, name: str, picture: Image.Image) -> None:
    folder(clips / name, moving())
    (clips / "masks" / name).mkdir(parents=True)
    picture.save(clips / "masks" / name / "00002.png")


def square(values: tuple[int, int, int] = (0, 255, 0)) -> np.ndarray:
    """A mask of the moving scene's size: background, a square, and a strip of a third value."""
    mask = np.full((80, 128), values[0], np.uint8)
    mask[20:50, 30:70] = values[1]
    mask[70:] = values[2]
    return mask


def palette(clips: Path) -> None:
    picture = Image.fromarray(square((0, 3, 0))).convert("P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    masks(clips, "mask_palette", picture)


def bits_flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    for at in range(len(data) // 2, len(data) // 2 + 40, 8):
        changed[at] ^= 0x10
    return bytes(changed)


class Case(NamedTuple):
    """How a piece of footage is made, and the documented outcome: status, words of the reason, frames kept."""

    make: Callable[[Path], Any]
    status: str
    says: tuple[str, ...] = ()
    frames: range = range(FRAMES, FRAMES + 1)


NOTHING = range(1)
PART = range(2, FRAMES)


def cut(name: str, codec: str, share: float) -> Callable[[Path], None]:
    def make(clips: Path) -> None:
        encode_video(clips / name, noise(), codec=codec)
        rewrite(clips / name, lambda data: data[: int(share * len(data))])

    return make


def changed_file(clips: Path, name: str, file: str, change: Callable[[bytes], bytes]) -> None:
    folder(clips / name, moving(), Path(file).suffix)
    rewrite(clips / name / file, change)


def renamed(clips: Path) -> None:
    encode_video(clips / "other.avi", moving(), codec="mjpeg")
    (clips / "other.avi").rename(clips / "avi_named_mp4.mp4")


def picture_as_video(clips: Path) -> None:
    Image.fromarray(moving()[0]).save(clips / "png_named_mp4.png")
    (clips / "png_named_mp4.png").rename(clips / "png_named_mp4.mp4")


def video_as_picture(clips: Path) -> None:
    folder(clips / "mp4_named_png", moving())
    encode_video(clips / "mp4_named_png" / "x.mp4", moving())
    (clips / "mp4_named_png" / "x.mp4").replace(clips / "mp4_named_png" / "00001.png")


def flipped_video(clips: Path) -> None:
    encode_video(clips / "flipped.mp4", moving())
    rewrite(clips / "flipped.mp4", bits_flipped)


def no_index(clips: Path) -> None:
    encode_video(clips / "no_moov.mp4", moving())
    rewrite(clips / "no_moov.mp4", without_atom(b"moov"))


def no_pictures(clips: Path) -> None:
    encode_video(clips / "no_mdat.mp4", moving())
    rewrite(clips / "no_mdat.mp4", without_atom(b"mdat"))


def odd_tag(clips: Path) -> None:
    """Matroska keeps the duration as text."""
    encode_video(clips / "odd_tag.mkv", moving())

    def change(data: bytes) -> bytes:
        at = data.index(b"00:00:00.")
        return data[:at] + b"a minute " + data[at + 9 :]

    rewrite(clips / "odd_tag.mkv", change)


VARIABLE = [0, 0.1, 0.11, 0.5, 0.6, 1.5]
SHOWN = Presentation([*VARIABLE, 2])

CORPUS: dict[str, Case] = {
    "cut_mjpeg": Case(cut("cut_mjpeg.avi", "mjpeg", 0.6), "damaged", (f"of {FRAMES} declared frames",), PART),
    "cut_h264": Case(cut("cut_h264.mp4", "h264", 0.6), "damaged", (f"of {FRAMES} declared frames",), PART),
    "flipped": Case(flipped_video, "damaged or ok", (), range(2, FRAMES + 1)),
    "zero": Case(lambda clips: (clips / "zero.mp4").write_bytes(b""), "skipped", ("zero.mp4", "0 bytes"), NOTHING),
    "no_moov": Case(no_index, "skipped", ("no_moov.mp4 is no readable video", "copy or convert"), NOTHING),
    "no_mdat": Case(no_pictures, "skipped", ("no_mdat.mp4",), NOTHING),
    "odd_tag": Case(odd_tag, "ok"),
    "avi_named_mp4": Case(renamed, "ok"),
    "png_named_mp4": Case(picture_as_video, "skipped", ("png_named_mp4.mp4", "at least 2 are needed"), NOTHING),
    "mp4_named_png": Case(video_as_picture, "skipped", ("mp4_named_png/00001.png is no readable image",), NOTHING),
    "rotated": Case(lambda clips: encode_video(clips / "rotated.mp4", moving(), rotation=90), "ok"),
    "variable": Case(lambda clips: encode_video(clips / "variable.mp4", moving(), shown=SHOWN), "ok"),
    "odd_sized": Case(lambda clips: encode_video(clips / "odd_sized.mp4", [i[:79, :127] for i in moving()]), "ok"),
    "one_frame": Case(
        lambda clips: encode_video(clips / "one_frame.mp4", moving(1)), "skipped", ("at least 2 are needed",), NOTHING
    ),
    "cut_jpeg": Case(
        lambda clips: changed_file(clips, "cut_jpeg", "00003.jpg", lambda data: data[: len(data) // 2]),
        "skipped",
        ("cut_jpeg/00003.jpg is no readable image", "replace or remove it"),
        NOTHING,
    ),
    "flipped_png": Case(
        lambda clips: changed_file(clips, "flipped_png", "00002.png", bits_flipped),
        "skipped",
        ("flipped_png/00002.png is no readable image",),
        NOTHING,
    ),
    "mask_size": Case(
        lambda clips: masks(clips, "mask_size", Image.fromarray(square()[:40, :64])),
        "skipped",
        ("masks/mask_size/00002.png is 64x40", "is 128x80"),
        NOTHING,
    ),
    "mask_palette": Case(palette, "ok"),
    "mask_rgb": Case(lambda clips: masks(clips, "mask_rgb", Image.fromarray(square()).convert("RGB")), "ok"),
    "mask_void": Case(lambda clips: masks(clips, "mask_void", Image.fromarray(square((0, 255, 128)))), "ok"),
    "mask_cut": Case(
        lambda clips: (
            masks(clips, "mask_cut", Image.fromarray(square())),
            rewrite(clips / "masks" / "mask_cut" / "00002.png", lambda data: data[:60]),
        ),
        "skipped",
        ("masks/mask_cut/00002.png is no readable image",),
        NOTHING,
    ),
}


# Footage in which a stage finds nothing, or too much of the same.
def flat(clips: Path) -> None:
    folder(clips / "flat", [np.full((80, 128, 3), 10 * t + 60, np.uint8) for t in range(FRAMES)])


def black(clips: Path) -> None:
    folder(clips / "black", [np.zeros((80, 128, 3), np.uint8)] * FRAMES)


def identical(clips: Path) -> None:
    folder(clips / "identical", [moving()[0]] * FRAMES)


def scene_cut(clips: Path) -> None:
    folder(clips / "scene_cut", [*moving(3, seed=1), *moving(FRAMES, seed=2)[3:]])


EMPTY = {"flat": Case(flat, "ok"), "black": Case(black, "ok"), "identical": Case(identical, "ok")}
EMPTY["scene_cut"] = Case(scene_cut, "ok")


def good(clips: Path) -> None:
    clips.mkdir(parents=True)
    encode_video(clips / "good_video.mp4", moving(seed=3))
    masks(clips, "good_images", Image.fromarray(scene(FRAMES)[1][2].astype(np.uint8) * 255))


def write_params(root: Path) -> None:
    root.mkdir(exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(small_values(VIDEOS)))


OUTPUTS = {"frames": ".zip", "homographies": ".npz", "flow": ".zip"}


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as monkey:
        yield monkey


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The stages frames, stabilize and flow: over the good footage alone, and over all of it."""
    root = tmp_path_factory.mktemp("corpus")
    for name in ("alone", "all"):
        write_params(root / name)
        good(root / name / "clips")
    for case in (CORPUS | EMPTY).values():
        case.make(root / "all" / "clips")
    for name in ("alone", "all"):
        for stage in ("frames", "stabilize", "flow"):
            run_stage(stage, root / name, patch)
    return SimpleNamespace(alone=root / "alone", all=root / "all", index=read_index(root / "all" / "data" / "frames"))


@pytest.mark.parametrize("name", CORPUS | EMPTY)
def test_each_has_its_documented_outcome(name: str, runs: SimpleNamespace) -> None:
    case = (CORPUS | EMPTY)[name]
    row = runs.index.set_index("sequence").loc[name]
    assert row.status in case.status.split(" or ")
    for words in case.says:
        assert words in row.reason
    assert row.frames in case.frames
    assert bool(row.reason) == (row.status != "ok")
    for kind, suffix in OUTPUTS.items():
        assert (runs.all / "data" / kind / f"{name}{suffix}").is_file() == (row.status != "skipped")
    if row.status == "skipped":
        return
    frames = FrameArchive(runs.all / "data" / "frames" / f"{name}.zip")
    flow = FlowArchive(runs.all / "data" / "flow" / f"{name}.zip")
    assert len(frames) == len(flow) == row.frames
    for t in range(len(frames)):
        assert frames.image(t).shape[:2] == flow.flow(t).shape[:2] == (row.height, row.width)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_whole_footage_among_broken_comes_out_byte_for_byte(kind: str, runs: SimpleNamespace) -> None:
    assert set(runs.index.sequence) == set(GOOD) | set(CORPUS) | set(EMPTY)
    for name in GOOD:
        one, other = (root / "data" / kind / f"{name}{OUTPUTS[kind]}" for root in (runs.alone, runs.all))
        assert one.read_bytes() == other.read_bytes()


def stored(runs: SimpleNamespace, name: str) -> FrameArchive:
    return FrameArchive(runs.all / "data" / "frames" / f"{name}.zip")


def test_odd_footage_keeps_its_pixels_times_and_masks(runs: SimpleNamespace) -> None:
    assert stored(runs, "rotated").size == (80, 128)
    assert stored(runs, "odd_sized").size == (127, 79)
    assert stored(runs, "variable").times == pytest.approx(VARIABLE, abs=1e-3)
    image = stored(runs, "avi_named_mp4").image(3).astype(int)
    assert np.argmin([np.abs(image - other).mean() for other in moving()]) == 3
    for name in ("mask_palette", "mask_rgb"):
        assert np.array_equal(stored(runs, name).mask(2), square())
    assert np.array_equal(stored(runs, "mask_void").mask(2), square((0, 255, 128)))
    assert not stored(runs, "mask_void").has_mask(1)


def test_what_cannot_be_stabilized_has_no_flow_and_what_stands_still_has_none_either(runs: SimpleNamespace) -> None:
    found = {name: load_homographies(runs.all / "data" / "homographies" / f"{name}.npz") for name in EMPTY}
    flows = {name: FlowArchive(runs.all / "data" / "flow" / f"{name}.zip") for name in EMPTY}
    for name in ("flat", "black"):
        assert not found[name]["valid"].any()
        assert all("keypoints" in reason for reason in found[name]["reason"])
        assert not any(flows[name].valid(t).any() for t in range(FRAMES))
    assert found["identical"]["valid"].all()
    assert found["identical"]["H"] == pytest.approx(np.stack([np.eye(3)] * FRAMES), abs=0.05)
    for t in range(FRAMES):
        flow, valid = flows["identical"].read(t)
        assert valid.mean() > 0.9
        assert np.abs(flow).max() < 0.2
    valid = found["scene_cut"]["valid"]
    assert not valid[2], "the pair that lies over the cut"
    assert found["scene_cut"]["reason"][2]
    assert valid[[0, 1, 3, 4, 5]].all()
    assert not flows["scene_cut"].valid(2).any()
    assert flows["scene_cut"].valid(1).any()


@pytest.mark.slow
def test_nothing_to_see_goes_through_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good(tmp_path / "clips")
    for name, case in EMPTY.items():
        case.make(tmp_path / "clips")
        (tmp_path / "clips" / "masks" / name).mkdir()
        empty = np.zeros((80, 128), np.uint8)  # nothing moves, so nothing is foreground
        Image.fromarray(empty).save(tmp_path / "clips" / "masks" / name / "00001.png")
    write_params(tmp_path)
    for name in stage_names():
        run_stage(name, tmp_path, monkeypatch)
    scores = json.loads((tmp_path / "metrics" / "scores.json").read_text())
    assert scores["frames_scored"] == 5
    assert scores["frames_without_prediction"] == 0
    per_frame = pd.read_csv(tmp_path / "metrics" / "per_frame.csv")
    assert set(per_frame.sequence) == {*EMPTY, "good_images"}
    assert per_frame[["J", "F"]].notna().all(axis=None)
    assert per_frame[["J", "F"]].stack().between(0, 1).all()
    for name in [*EMPTY, *GOOD]:
        found = MaskArchive(tmp_path / "data" / "masks" / f"{name}.zip")
        assert len(found) == FRAMES
        soft = Predictions(tmp_path / "data" / "predictions" / f"{name}.zip")
        assert np.isfinite(soft.box).all()
        assert soft.p.sum(axis=(1, 2)) == pytest.approx(np.ones(FRAMES), abs=1e-3)


@pytest.mark.slow
def test_ten_thousand_frames_keep_their_order_among_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each frame shows its number as sixteen dark or bright blocks; other footage comes out as if it lay alone."""
    count = 10_000

    def frame(t: int) -> np.ndarray:
        blocks = np.array([255 if t >> bit & 1 else 0 for bit in range(16)], np.uint8).reshape(4, 4)
        return np.repeat(np.kron(blocks, np.ones((8, 8), np.uint8))[..., None], 3, axis=2)

    for name in ("alone", "all"):
        write_params(tmp_path / name)
        good(tmp_path / name / "clips")
    encode_video(tmp_path / "all" / "clips" / "long.avi", (frame(t) for t in range(count)), codec="mjpeg")
    for name in ("alone", "all"):
        for stage in ("frames", "stabilize", "flow"):
            run_stage(stage, tmp_path / name, monkeypatch)
    data = tmp_path / "all" / "data"
    frames = FrameArchive(data / "frames" / "long.zip")
    assert len(frames) == count
    for t in [*range(0, count, 97), count - 1]:
        bright = frames.image(t)[4::8, 4::8, 0].ravel() > 127
        assert sum(int(on) << bit for bit, on in enumerate(bright)) == t
    assert len(load_homographies(data / "homographies" / "long.npz")["H"]) == count
    assert len(FlowArchive(data / "flow" / "long.zip")) == count
    for kind, suffix in OUTPUTS.items():
        for name in GOOD:
            other = tmp_path / "alone" / "data" / kind / f"{name}{suffix}"
            assert (data / kind / f"{name}{suffix}").read_bytes() == other.read_bytes()


# ------------------------------------------------------------------------------------ generated damage


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A cut, some flipped bits, some overwritten bytes, or bytes put in or left out; most near the file's ends."""
    kind = draw(st.sampled_from(["cut", "flip", "flip", "overwrite", "insert", "drop"]))
    places = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4))
    near = draw(st.sampled_from(["anywhere", "head", "tail"]))
    values = draw(st.binary(min_size=4, max_size=4))

    def at(size: int, place: float) -> int:
        reach = min(size, 300)
        return {"anywhere": int(place * size), "head": int(place * reach), "tail": size - 1 - int(place * reach)}[near]

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        for place, value in zip(places, values, strict=False):
            if not changed:
                break
            spot = at(len(changed), place)
            if kind == "cut":
                del changed[spot:]
            elif kind == "flip":
                changed[spot] ^= 1 << value % 8
            elif kind == "overwrite":
                changed[spot] = value
            elif kind == "insert":
                changed[spot:spot] = values
            else:
                del changed[spot : spot + 1 + value % 40]
        return bytes(changed)

    return change


def by_frames(path: Path) -> dict[str, Any]:
    archive = FrameArchive(path)
    found: dict[str, Any] = {"names": lambda: archive.names, "times": lambda: archive.times.tolist()}
    found |= {f"image {t}": lambda t=t: archive.image(t).tobytes() for t in range(len(archive))}
    return found | {f"mask {t}": lambda t=t: bytes(archive.mask(t)) for t in range(len(archive))}


def by_masks(path: Path) -> dict[str, Any]:
    archive = MaskArchive(path)
    return {str(t): lambda t=t: archive.gray(t).tobytes() for t in range(3)}


def by_predictions(path: Path) -> dict[str, Any]:
    archive = Predictions(path)
    boxes = {key: lambda key=key: getattr(archive, key).tobytes() for key in ("box", "p", "cell")}
    return boxes | {str(t): lambda t=t: archive.gray(t).tobytes() for t in range(3)}


def by_flow(path: Path) -> dict[str, Any]:
    archive = FlowArchive(path)
    return {str(t): lambda t=t: [part.tobytes() for part in archive.read(t)] for t in range(3)}


def by_homographies(path: Path) -> dict[str, Any]:
    arrays = load_homographies(path)
    return {key: value.tobytes for key, value in arrays.items()}


ARCHIVES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "frames/a.zip": by_frames,
    "masks/a.zip": by_masks,
    "predictions/a.zip": by_predictions,
    "flow/a.zip": by_flow,
    "homographies/a.npz": by_homographies,
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("intact")
    make_run(root, {"a": "all"}, frames=3)
    return root


def attempt(function: Callable[[], Any]) -> tuple[Any, str]:
    """What it returns, or None and what its BackdropError says; nothing else may be raised."""
    try:
        return function(), ""
    except BackdropError as fault:
        return None, str(fault)


def same_or_named(path: Path, read_parts: Callable[[Path], dict[str, Any]], expected: dict[str, Any]) -> int:
    """Every part is what it was or a BackdropError that names the file; the number of those that were lost."""
    parts, said = attempt(lambda: read_parts(path))
    if said:
        assert path.name in said
        return len(expected)
    lost = 0
    assert set(parts) == set(expected)
    for key, part in parts.items():
        found, said = attempt(part)
        assert path.name in said or found == expected[key], f"{key} silently became another"
        lost += bool(said)
    return lost


@pytest.mark.parametrize("name", ARCHIVES)
@settings(max_examples=40, deadline=None)
@given(change=damage())
def test_a_damaged_archive_gives_what_it_held_or_names_itself(
    name: str, intact: Path, change: Callable[[bytes], bytes]
) -> None:
    path = intact / f"damaged{Path(name).suffix}"
    path.write_bytes((intact / name).read_bytes())
    expected = {key: part() for key, part in ARCHIVES[name](path).items()}
    rewrite(path, change)
    same_or_named(path, ARCHIVES[name], expected)


@pytest.mark.parametrize("name", ["masks/a.zip", "flow/a.zip", "frames/a.zip"])
def test_no_bit_of_the_names_in_an_archive_gives_one_frame_for_another(name: str, intact: Path) -> None:
    """All single bits of the names in the table at the archive's end: 000001.png may become 000005.png or 000001.pnf"""
    data = (intact / name).read_bytes()
    path = intact / "named.zip"
    path.write_bytes(data)
    expected = {key: part() for key, part in ARCHIVES[name](path).items()}
    lost = flips = 0
    at = data.index(b"PK\x01\x02")
    while data[at : at + 4] == b"PK\x01\x02":
        length = struct.unpack("<H", data[at + 28 : at + 30])[0]
        for spot in range(at + 46, at + 46 + length):
            for bit in range(8):
                path.write_bytes(data[:spot] + bytes([data[spot] ^ 1 << bit]) + data[spot + 1 :])
                lost += same_or_named(path, ARCHIVES[name], expected) > 0
                flips += 1
        at += 46 + length
    assert lost == flips >= 3 * 8 * len("000000.png")


def test_an_entry_without_a_byte_and_one_of_gigapixels_are_damage(tmp_path: Path) -> None:
    header = encode_png(np.zeros((1, 1), np.uint8))
    vast = header[:16] + struct.pack(">II", 100_000, 100_000) + header[24:]
    for data in (b"", vast):
        with ArchiveWriter(tmp_path / "x.zip") as archive:
            archive.add("000000.png", data)
            archive.add("images/000000.jpg", data)
            archive.add("masks/000000.png", data)
            archive.add("frames.csv", b"frame,name,time_s,has_mask\n0,a,0,1\n")
        frames, found = FrameArchive(tmp_path / "x.zip"), MaskArchive(tmp_path / "x.zip")
        for read_one in (frames.image, frames.mask, found.gray):
            with pytest.raises(BackdropError, match=r"x\.zip: (frame|mask|0000).*damaged"):
                read_one(0)


def pictures() -> list[bytes]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    made = []
    for kind, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ):
        for mode in ("RGB", "L", "P"):
            if mode == "P" and kind in ("JPEG", "WEBP"):
                continue
            stream = io.BytesIO()
            image.convert(mode).save(stream, kind, **options)
            made.append(stream.getvalue())
    return made


PICTURES = pictures()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged TIFF
@settings(max_examples=150, deadline=None)
@given(data=st.sampled_from(PICTURES), change=damage())
def test_a_damaged_picture_is_pixels_or_one_error(data: bytes, change: Callable[[bytes], bytes]) -> None:
    for decode, channels in ((decode_image, (3,)), (decode_mask, ())):
        found, said = attempt(lambda decode=decode: decode(change(data), name="x.any"))
        if said:
            assert "x.any" in said
            assert "\n" not in said
        else:
            assert found.dtype == np.uint8
            assert found.shape[2:] == channels
            assert found.shape[0] * found.shape[1] <= MAX_PIXELS


@settings(max_examples=50, deadline=None)
@given(
    data=st.binary(max_size=200), magic=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0"])
)
def test_bytes_that_are_no_picture_are_one_error(data: bytes, magic: bytes) -> None:
    with pytest.raises(BackdropError, match=r"^x\.any is no readable image|^x\.any has more than"):
        decode_image(magic + data, "x.any")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("clip")
    made = {}
    for name, codec in (("a.mp4", "h264"), ("a.avi", "mjpeg"), ("a.mkv", "mpeg4")):
        encode_video(root / name, [frame[:48, :64] for frame in moving(5)], codec=codec)
        made[name] = (root / name).read_bytes()
    return made


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(["a.mp4", "a.avi", "a.mkv"]), change=damage())
def test_a_damaged_video_is_frames_of_one_size_or_one_error(
    name: str, clip: dict[str, bytes], intact: Path, change: Callable[[bytes], bytes]
) -> None:
    path = intact / name
    path.write_bytes(change(clip[name]))
    row, said = attempt(lambda: extract_sequence(Sequence("x", name, video=path), intact / "videos"))
    if said:
        assert name in said
        assert "\n" not in said
        assert not (intact / "videos" / "x.zip").exists()
        return
    archive = FrameArchive(intact / "videos" / "x.zip")
    assert len(archive) == row["frames"] >= 2
    assert {archive.image(t).shape for t in range(len(archive))} == {(row["height"], row["width"], 3)}
    assert probe(path).width == row["width"]
    (intact / "videos" / "x.zip").unlink()


PARAMS = (ROOT / "params.yaml").read_bytes()
WORDS = [
    b"&a",
    b"*a",
    b"!!python/name:os.system",
    b"{",
    b"[",
    b"<<: ",
    b"2001-99-99",
    b"0b_",
    b".nan",
    b"\t",
    b"%",
    b"- ",
]


@settings(max_examples=60, deadline=None)
@given(change=damage(), word=st.sampled_from([b"", *WORDS]), place=st.floats(0, 1))
def test_damaged_parameters_are_read_or_named(
    change: Callable[[bytes], bytes], word: bytes, place: float, intact: Path
) -> None:
    data, at = change(PARAMS), int(place * len(PARAMS))
    (intact / "params.yaml").write_bytes(data[:at] + word + data[at:])
    found, said = attempt(lambda: read(intact / "params.yaml"))
    assert "params.yaml" in said or isinstance(found, Params)


@settings(max_examples=60, deadline=None)
@given(change=damage())
def test_a_damaged_index_is_a_table_or_named(change: Callable[[bytes], bytes], intact: Path) -> None:
    shutil.copy(intact / "frames" / "index.csv", intact / "index.csv")
    rewrite(intact / "index.csv", change)
    found, said = attempt(lambda: read_index(intact))
    assert "index.csv" in said or tuple(found.columns) == INDEX_COLUMNS


def test_the_corpus_is_what_extract_all_sees_with_strict(runs: SimpleNamespace, tmp_path: Path) -> None:
    """One message names every faulty sequence, and nothing is written."""
    data = validate(small_values(VIDEOS | {"data.root": str(runs.all / "clips"), "data.strict": True})).data
    with pytest.raises(BackdropError, match=r"data\.strict") as caught:
        extract_all(data, tmp_path / "out")
    faulty = set(runs.index.sequence[runs.index.status != "ok"])
    assert all(f"{name} (" in str(caught.value) for name in faulty)
    assert not (tmp_path / "out").exists()
