"""What files, folders and patterns name: which are sources, what is passed over, what a source is called."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath

import hypothesis
import pytest
from hypothesis import strategies as st

from backdrop.app.exports import FORMATS
from backdrop.app.pictures import PICTURES
from backdrop.app.sources import (
    LOCK,
    RESERVED,
    RESULT_FOLDERS,
    Source,
    find_sources,
    same_on_any_disk,
    unique_names,
)
from backdrop.errors import BackdropError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def link(path: Path, to: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)


def search(*inputs: str | Path, out: Path | None = None) -> tuple[list[Source], str]:
    """The sources, and what was said of the others."""
    said: list[str] = []
    found = find_sources(inputs, out, said.append)
    assert len(said) <= 1
    return found, "".join(said)


def files(*inputs: str | Path, out: Path | None = None) -> list[str]:
    return [source.file for source in search(*inputs, out=out)[0]]


# --------------------------------------------------------------------------------------------- passed over


def test_the_folders_of_results_are_those_that_are_written() -> None:
    assert set(RESULT_FOLDERS) == {"records", *PICTURES, *FORMATS}


PASSED = {
    "hidden image": (".b.png", "hidden: 1 (.b.png)"),
    "hidden video": (".b.mp4", "hidden: 1 (.b.mp4)"),
    "thumbnails": ("@eaDir/a.png/SYNO_THUMB.jpg", "of another program: 1 (@eaDir)"),
    "resource forks": ("__MACOSX/._a.png", "of another program: 1 (__MACOSX)"),
    "waste paper": ("#recycle/b.png", "of another program: 1 (#recycle)"),
    "masks of the layout": ("masks/a/000000.png", "ground truth: 1 (masks)"),
    "unknown kind": ("b.heic", "neither image nor video: 1 (b.heic)"),
    "earlier results": ("old/masks/a.png", "results of predict: 1 (old)"),
}


@pytest.mark.parametrize("pattern", ["", "/*", "/**/*"])
@pytest.mark.parametrize("kind", PASSED)
def test_what_is_no_input_is_named_in_one_line(kind: str, pattern: str, tmp_path: Path) -> None:
    name, says = PASSED[kind]
    touch(tmp_path, "in/a.png", f"in/{name}", "in/notes.txt")
    if kind == "earlier results":
        touch(tmp_path, f"in/old/{LOCK}", "in/old/records/a.jsonl")
    found, said = search(f"{tmp_path}/in{pattern}")
    assert [source.file for source in found] == ["a.png"]
    if not (pattern and kind.startswith("hidden")):  # patterns do not match hidden files
        assert said == f"passed over: {says}"


def test_truth_of_data_sets_is_no_input(tmp_path: Path) -> None:
    touch(tmp_path, "DAVIS/JPEGImages/a/0.jpg", "DAVIS/Annotations/a/0.png")
    touch(tmp_path, "cdnet/input/in1.jpg", "cdnet/groundtruth/gt1.png")
    touch(tmp_path, "ski/Videos_Small/t/1.jpg", "ski/Segmentation_masks/t/1.jpg")
    assert files(tmp_path) == ["DAVIS/JPEGImages/a/0.jpg", "cdnet/input/in1.jpg", "ski/Videos_Small/t/1.jpg"]
    assert files(tmp_path / "DAVIS" / "Annotations") == ["a/0.png"], "who names it means it"
    touch(tmp_path, "cdnet/ROI.bmp", "cdnet/ROI.jpg", "cdnet/input/ROI.jpg")
    found, said = search(tmp_path / "cdnet")
    assert [source.file for source in found] == ["input/ROI.jpg", "input/in1.jpg"]
    assert "CDnet's region of interest: 2 (ROI.bmp, ROI.jpg)" in said
    for inputs in ([f"{tmp_path}/cdnet/*"], sorted((tmp_path / "cdnet").iterdir()), [f"{tmp_path}/cd*/**/*"]):
        found, said = search(*inputs)  # a pattern, and what a shell makes of it
        assert [source.path.name for source in found] == ["ROI.jpg", "in1.jpg"]
        assert "CDnet's region of interest: 2 (ROI.bmp, ROI.jpg)" in said
    assert files(tmp_path / "cdnet" / "ROI.bmp") == ["ROI.bmp"], "who names it alone means it"
    touch(tmp_path, "reels/input/1.jpg", "reels/roi.mp4", "pictures/ROI.jpg")
    assert files(tmp_path / "reels") == ["input/1.jpg", "roi.mp4"]
    assert files(tmp_path / "pictures") == ["ROI.jpg"], "no `input` beside it"
    touch(tmp_path, "carnival/masks/1.jpg", "films/annotations/1.jpg")
    assert files(tmp_path / "carnival", tmp_path / "films") == ["carnival/masks/1.jpg", "films/annotations/1.jpg"]


def test_the_output_folder_is_no_input(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/out/masks/a.png", "in/out/labels/davis/a.png", "in/b/c.png")
    out = tmp_path / "in" / "out"
    for given in ("in", "in/*", "in/**/*.png"):
        found, said = search(tmp_path / given, out=out)
        assert [source.file for source in found] == ["a.png", "b/c.png"]
        assert said == ""
    found, said = search(tmp_path / "in" / "out" / ".." / "a.png", out=out)
    assert len(found) == 1
    for given in ("in/out/masks", "in/out/masks/a.png"):
        with pytest.raises(BackdropError, match="results? of predict"):
            find_sources([tmp_path / given], out)


def test_a_folder_that_is_input_and_output_keeps_its_own_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b/c.png", "masks/a.png", "overlay/a.jpg", "records/a.jsonl", LOCK)
    found, said = search(tmp_path, out=tmp_path)
    assert [source.file for source in found] == ["a.png", "b/c.png"]
    assert "results of predict: 3" in said
    assert files(tmp_path) == ["a.png", "b/c.png"], "later, with another folder for results"


def test_text_is_not_told(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "notes.txt", "Thumbs.db", ".DS_Store", "._a.png", "no_suffix", ".git/x.png")
    assert search(tmp_path) == ([Source(tmp_path / "a.png", "a", False, "a.png")], "")


# ------------------------------------------------------------------------------------------------- broken


BROKEN = ["gone.png", "loop.mp4", "locked", "pipe.png"]


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("given", ["folder", "pattern", "alone"])
def test_a_broken_entry_is_a_source_with_a_fault(name: str, given: str, tmp_path: Path, locked_folders: None) -> None:
    touch(tmp_path, "in/a.png")
    path = tmp_path / "in" / name
    if name == "locked":
        path.mkdir()
    elif name == "pipe.png":
        os.mkfifo(path)
    else:
        path.symlink_to(name if name == "loop.mp4" else "nowhere")
    if given == "alone":
        with pytest.raises(BackdropError, match=name):
            find_sources([path])
        return
    found, _ = search(tmp_path / "in" if given == "folder" else f"{tmp_path}/in/*")
    assert [(source.file, bool(source.fault)) for source in found] == [("a.png", False), ("", True)]
    assert name in found[1].fault
    assert "\n" not in found[1].fault


def test_of_several_inputs_one_that_is_no_footage_keeps_none_from_being_taken(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "notes.txt")
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "b.heic")
    listed = sorted(tmp_path.iterdir())  # as a shell writes it for *
    found, said = search(*listed)
    assert [(source.path.name, bool(source.fault)) for source in found] == [("a.png", False), ("b.heic", True)]
    assert said == "passed over: without images and videos: 1 (empty); neither image nor video: 1 (notes.txt)"
    with pytest.raises(BackdropError, match=r"b\.heic is by its suffix neither"):
        find_sources(listed[1:])
    with pytest.raises(BackdropError, match="none of the inputs"):
        find_sources(listed[2:])
    with pytest.raises(BackdropError, match=r"typo\.png does not exist"):
        find_sources([tmp_path / "a.png", tmp_path / "typo.png"])
    with pytest.raises(BackdropError, match="does not exist"):
        find_sources(["x" * 5000])


# ------------------------------------------------------------------------------------------------ patterns


def test_a_folder_that_a_pattern_matches_is_searched(tmp_path: Path) -> None:
    touch(tmp_path, "clips/seq/0.png", "clips/seq/deep/1.png", "clips/run.mp4", "clips/notes.txt")
    assert files(f"{tmp_path}/clips/*") == ["run.mp4", "seq/0.png", "seq/deep/1.png"]
    touch(tmp_path, "only/notes.txt")
    with pytest.raises(BackdropError, match="matches none of"):
        find_sources([f"{tmp_path}/only/*"])


@pytest.mark.parametrize("name", ["br [1]", "what?", "st*r", "a[!b]c", "[", "[]]"])
def test_a_folder_whose_name_is_a_pattern_is_meant_as_it_stands(name: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{name}/a.png", f"big/{name}/b.png", "br 1/no.png", "whats/no.png", "stair/no.png")
    assert files(tmp_path / name) == ["a.png"]
    assert files(f"{tmp_path}/{name}/*.png") == ["a.png"]
    assert files(f"{tmp_path}/{name}/a.*") == ["a.png"]
    assert f"{name}/b.png" in files(f"{tmp_path}/b*g/{name}/*.png")[0]


@pytest.mark.parametrize(("disk", "given"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_inputs_are_found_in_either_unicode_form(disk: str, given: str, tmp_path: Path) -> None:
    on_disk, other = (unicodedata.normalize(form, "Übung") for form in (disk, given))
    touch(tmp_path, f"{on_disk}/{on_disk}.png")
    for text in (f"{other}/{other}.png", other, f"{other}/{other}.*", f"{other[:3]}*/*.png"):
        assert [Path(name).name for name in files(tmp_path / text)] == [f"{on_disk}.png"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/x.png", "in/a/0.png", "in/b/0.png")
    link(tmp_path / "in" / "link", "../elsewhere")
    assert files(tmp_path / "in") == ["a/0.png", "b/0.png", "link/x.png"]
    for place, to in (("up", ".."), ("self", "."), ("a/b", "../b"), ("b/a", "../a"), ("a/top", "../..")):
        link(tmp_path / "in" / place, to)
    for given in ("in", "in/*", "in/**/*.png"):
        found, said = search(tmp_path / given)
        names = [source.file for source in found]
        assert {"a/0.png", "b/0.png", "link/x.png"} <= set(names)
        assert len(names) <= 6, names
        assert "links to folders that are read already" in said


# --------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["seqs/A", "seqs/B"], ["A/0.png", "B/0.png"]),
        (["seqs"], ["A/0.png", "B/0.png"]),
        (["seqs/A"], ["0.png"]),
        (["seqs/A/0.png"], ["0.png"]),
        (["seqs/*"], ["A/0.png", "B/0.png"]),
        (["seqs/*/0.png"], ["A/0.png", "B/0.png"]),
        (["seqs/[AB]/*.png"], ["A/0.png", "B/0.png"]),
        (["seqs/B/*.png", "seqs/A/*.png"], ["B/0.png", "A/0.png"]),
        (["seqs/A/0.png", "seqs/B/0.png"], ["A/0.png", "B/0.png"]),
        (["seqs/A", "other/0.png"], ["seqs/A/0.png", "other/0.png"]),
        (["seqs", "seqs/A"], ["A/0.png", "B/0.png"]),
        (["seqs/A/../B"], ["0.png"]),
        (["./seqs/A", "seqs//A/"], ["0.png"]),
    ],
)
def test_names_are_paths_below_what_all_inputs_have_in_common(
    inputs: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "seqs/A/0.png", "seqs/B/0.png", "other/0.png")
    monkeypatch.chdir(tmp_path)
    found, _ = search(*inputs)
    assert [source.file for source in found] == expected
    assert [source.name for source in found] == [name.removesuffix(".png") for name in expected]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["run.mp4", "run/0.png"], ["run.mp4", "run/0"]),
        (["run.mp4", "run.png"], ["run.mp4", "run"]),
        (["run.mp4", "run.avi"], ["run.mp4", "run.avi"]),
        (["a.png", "a.jpg"], ["a.png", "a.jpg"]),
        (["a.png", "a.jpg", "a.mp4"], ["a.png", "a.jpg", "a.mp4"]),
        (["Run.mp4", "run/0.png"], ["Run.mp4", "run/0"]),
        (["run.png.mp4", "run.jpg"], ["run.png", "run.jpg"]),
        (["run.png/0.png", "run.jpg"], ["run.png/0", "run.jpg"]),
        (["a.v1.png", "a.v2.png"], ["a.v1", "a.v2"]),
        (["...mp4", "x/..png"], ["...mp4", "x/..png"]),
        (["aux.png", "COM1/con.tar.mp4"], ["aux_", "COM1_/con_.tar"]),
    ],
)
def test_a_suffix_stays_where_names_would_meet(given: list[str], expected: list[str]) -> None:
    assert unique_names(given, [name.endswith((".mp4", ".avi")) for name in given]) == expected


@pytest.mark.parametrize(
    "given",
    [
        ["A.png", "a.png"],
        ["a/x.png", "A/x.png"],
        [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")],
        ["a .png", "a.png"],
        ["a./x.png", "a/x.png"],
        ["straße.png", "STRASSE.png"],
        ["a.png", "a.jpg", "a.png.bmp", "a.PNG"],
        ["run.mp4", "run.mp4/0.png", "run/0.png"],
    ],
)
def test_a_hash_tells_apart_what_some_disks_take_for_one(given: list[str]) -> None:
    videos = [name.endswith(".mp4") for name in given]
    names = unique_names(given, videos)
    assert len({same_on_any_disk(name) for name in names}) == len(given)
    assert names == unique_names(given[::-1], videos[::-1])[::-1], "whatever the order"


PART = st.sampled_from(["a", "A", "a.png", "run", "run.mp4", "b.jsonl", "nul", "..", "é", "e\u0301"])
END = st.sampled_from([".png", ".jpg", ".mp4", ".avi"])
PATH = st.builds(lambda parts, end: "/".join(parts) + end, st.lists(PART, min_size=1, max_size=3), END)


OF_IMAGE = {"records": ".jsonl", "masks": ".png", "overlay": ".jpg", "npz": ".npz", "labels": ".txt"}
OF_VIDEO = {"records": ".jsonl", "video": ".mp4", "masks": "/0.png", "overlay": "/0.jpg", "labels": "/0.txt"}


@hypothesis.given(st.sets(PATH, max_size=8))
def test_no_output_of_one_source_has_the_path_of_anothers(paths: set[str]) -> None:
    given = sorted(paths)
    videos = [name.endswith((".mp4", ".avi")) for name in given]
    made: set[str] = set()
    folders: set[str] = set()
    for name, video in zip(unique_names(given, videos), videos, strict=True):
        written = [f"{kind}/{name}{end}" for kind, end in (OF_VIDEO if video else OF_IMAGE).items()]
        for path in map(same_on_any_disk, written):
            assert path not in made, (given, path)
            made.add(path)
            folders.update(str(one) for one in PurePosixPath(path).parents)
        assert not {part.split(".")[0].lower() for part in name.split("/")} & set(RESERVED)
    assert not made & folders, given
