"""One output, one name, in every format; a changed input is segmented anew; a bad source costs itself alone."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from backdrop.app import cli
from backdrop.app.records import read_records
from backdrop.app.segmenter import Segmenter
from backdrop.video.encode import encode_video
from tests.backdrop_command import call
from tests.handmade_run import scene
from tests.small_pipeline import write_model

pytestmark = pytest.mark.usefixtures("one_thread")

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "segmenter")


@pytest.fixture
def predict(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`backdrop predict` in the test's folder, with results in out/."""
    monkeypatch.chdir(tmp_path)
    segmenter = Segmenter.load(model, "cpu")
    monkeypatch.setattr(Segmenter, "load", lambda *_: segmenter)
    monkeypatch.setattr("backdrop.app.predict.identity", lambda _: "model")

    def run(*arguments: object, out: str = "out") -> tuple[int, str]:
        return call("predict", *arguments, "-o", out, "--model", model, "--refine", "none")

    return run


def draw(path: str | Path, t: int = 0, size: tuple[int, int] | None = None) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(scene(t + 1)[0][t])
    image.resize(size or image.size).save(path)
    return path


def below(folder: str | Path, end: str = "") -> list[str]:
    root = Path(folder)
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and p.name.endswith(end))


def shown(name: str = "out") -> list[str]:
    return [image["file_name"] for image in json.loads(Path(name, "coco.json").read_text())["images"]]


FORMATS = [
    word for name in ("masks", "overlay", "npz", "coco", "yolo", "davis", "labelstudio") for word in ("-f", name)
]


# --------------------------------------------------------------------------------------------------- names


def _given(real_data: Path, name: str) -> None:
    folder = real_data / "cases" / name
    if not folder.is_dir():
        pytest.skip("BACKDROP_REAL_DATA holds no cases/")
    shutil.copytree(folder, name)


@pytest.mark.parametrize("inputs", [("same/seqA", "same/seqB"), ("same/*",), ("same/*/*.png",), ("same",)])
def test_images_of_two_folders_have_their_folders_in_every_format(inputs: tuple[str, ...], predict: Command) -> None:
    draw("same/seqA/00000.png")
    draw("same/seqB/00000.png", 3)
    assert predict(*inputs, *FORMATS)[0] == 0
    assert shown() == ["seqA/00000.png", "seqB/00000.png"]
    tasks = json.loads(Path("out/labelstudio.json").read_text())
    assert [task["data"]["image"] for task in tasks] == ["seqA/00000.png", "seqB/00000.png"]
    for folder, end in (
        ("masks", ".png"), ("overlay", ".jpg"), ("npz", ".npz"), ("yolo/labels", ".txt"),
        ("davis/Annotations", ".png"), ("records", ".jsonl"),
    ):  # fmt: skip
        assert below(f"out/{folder}") == [f"seqA/00000{end}", f"seqB/00000{end}"]


def test_given_images_of_two_folders(real_data: Path, predict: Command) -> None:
    _given(real_data, "same_names")
    assert predict("same_names/seqA", "same_names/seqB", *FORMATS)[0] == 0
    assert shown() == ["seqA/00000.png", "seqB/00000.png"]
    assert below("out/davis/Annotations") == below("out/masks") == ["seqA/00000.png", "seqB/00000.png"]


def test_a_video_beside_a_folder_of_its_name_overwrites_nothing(predict: Command) -> None:
    encode_video("both/run.mp4", scene(6)[0], fps=10)
    for t in range(6):
        draw(f"both/run/{t:06d}.png", t)
    _check_both("both", predict)


def test_given_video_beside_a_folder_of_its_name(real_data: Path, predict: Command) -> None:
    _given(real_data, "video_and_folder")
    _check_both("video_and_folder", predict)


def _check_both(folder: str, predict: Command) -> None:
    assert predict(folder, *FORMATS, "-f", "video")[0] == 0
    assert len(below("out/masks")) == len(below("out/yolo/labels")) == len(below("out/davis/Annotations")) == 12
    assert len(set(shown())) == 12
    assert set(shown()) == {f"run.mp4/frame_{t:06d}.jpg" for t in range(6)} | {f"run/{t:06d}.png" for t in range(6)}
    assert below("out/video") == ["run.mp4.mp4"]


def test_images_of_one_stem_keep_their_own_names_in_other_tools(predict: Command) -> None:
    for name in ("a.png", "a.jpg", "A.bmp", "b.png"):
        draw(f"in/{name}")
    assert predict("in", *FORMATS)[0] == 0
    assert sorted(shown()) == ["A.bmp", "a.jpg", "a.png", "b.png"]
    for folder in ("masks", "yolo/labels", "davis/Annotations/in", "records"):
        assert len({name.lower() for name in below(f"out/{folder}")}) == 4
    assert "b.png" in below("out/masks")


def test_images_in_no_folder_are_a_sequence_of_davis(predict: Command) -> None:
    for name in ("in/0.png", "in/1.png", "in/in/0.png"):
        draw(name)
    assert predict("in", "-f", "davis")[0] == 0
    assert below("out/davis/Annotations") == ["in/0.png", "in_/0.png", "in_/1.png"]


def test_two_commands_do_not_write_over_each_other(predict: Command) -> None:
    draw("a/0.png")
    draw("b/0.png", 3)
    assert predict("a", "-f", "overlay")[0] == 0
    before = Path("out/overlay/0.jpg").read_bytes()
    status, said = predict("b", "-f", "overlay")
    assert status == 1
    assert "b/0.png: out/records/0.jsonl holds what was found in" in said
    assert "another folder with -o" in said
    assert Path("out/overlay/0.jpg").read_bytes() == before
    shutil.rmtree("a")
    assert predict("b", "-f", "overlay")[0] == 0, "nothing of it is left that could be meant"
    assert Path("out/overlay/0.jpg").read_bytes() != before


def test_exports_in_another_folder_are_no_input(predict: Command) -> None:
    draw("in/a.png")
    encode_video("in/run.mp4", scene(3)[0], fps=10)
    assert predict("in", out="in/out")[0] == 0
    for name in ("davis", "video"):
        assert call("export", "in/out", "-f", name, "-o", f"in/exports/{name} too")[0] == 0
    status, said = predict("in", out="in/out")
    assert status == 0
    assert "results of predict: 2 (davis too, video too)" in said
    assert len(below("in/out/records")) == 2


def test_results_of_a_file_follow_its_new_name(predict: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    draw("in/d/a.png")
    encode_video("in/d/run.mp4", scene(3)[0], fps=10)
    assert predict("in/d", "-f", "masks", "-f", "overlay")[0] == 0
    draw("in/a.png", 3)
    batches: list[int] = []
    batch = Segmenter.predict_batch

    def counting(self: Segmenter, images: list[np.ndarray], *rest: Any):
        batches.append(len(images))
        return batch(self, images, *rest)

    monkeypatch.setattr(Segmenter, "predict_batch", counting)
    assert predict("in", "-f", "masks", "-f", "overlay", "-f", "coco")[0] == 0
    assert batches == [1], "only what is new"
    assert below("out/masks") == ["a.png", "d/a.png", *(f"d/run/{t:06d}.png" for t in range(3))]
    assert len(below("out/overlay")) == 5
    assert below("out/records") == ["a.jsonl", "d/a.jsonl", "d/run.jsonl"]
    draw("in/d/a.jpg")
    assert predict("in", "-f", "masks")[0] == 0
    call("export", "out", "-f", "coco")
    assert sorted(shown())[:3] == ["a.png", "d/a.jpg", "d/a.png"]
    assert below("out/masks")[:3] == ["a.png", "d/a.jpg.png", "d/a.png.png"]


@pytest.mark.parametrize("quoted", [True, False])
def test_what_a_star_stands_for_holds_no_results_and_no_truth(quoted: bool, predict: Command) -> None:
    for t, name in enumerate(("a", "b")):
        draw(f"in/{name}.png", t)
    draw("in/masks/in/a.png")
    draw("in/@eaDir/a.png/thumb.jpg")
    Path("in/notes.txt").touch()
    Path("in/empty").mkdir()
    Path("in/out").mkdir()
    for _ in range(3):
        inputs = ["in/*"] if quoted else sorted(Path("in").iterdir())
        status, said = predict(*inputs, "-f", "masks", "-f", "overlay", out="in/out")
        assert status == 0, said
        assert below("in/out/masks") == ["a.png", "b.png"]
        assert "ground truth: 1 (masks)" in said
        assert "of another program: 1 (@eaDir)" in said


def test_the_output_folder_may_lie_in_the_input(predict: Command) -> None:
    for t in range(3):
        draw(f"in/{t}.png", t)
        draw(f"in/masks/in/{t}.png")
        draw(f"in/@eaDir/{t}.png/thumb.jpg")
    for _ in range(3):
        status, said = predict("in", "-f", "masks", "-f", "overlay", "-f", "davis", out="in/out")
        assert status == 0
        assert below("in/out/masks") == ["0.png", "1.png", "2.png"]
        assert len(below("in/out/davis")) == 3
        assert said.count("passed over") == 1
        assert "ground truth: 1 (masks)" in said
        assert "of another program: 1 (@eaDir)" in said
    assert predict("in", "--quiet", out="in/out") == (0, "")


# ------------------------------------------------------------------------------------------------- changes


def keep_times(path: Path, change: Callable[[], object]) -> None:
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


REPLACED = {
    "written over": lambda path, new: path.write_bytes(new.read_bytes()),
    "written over, old time": lambda path, new: keep_times(path, lambda: path.write_bytes(new.read_bytes())),
    "moved onto it": lambda path, new: os.replace(new, path),
    "moved onto it, old time": lambda path, new: keep_times(path, lambda: os.replace(new, path)),
    "linked": lambda path, new: (path.unlink(), path.symlink_to(new.resolve())),
}


@pytest.mark.parametrize("how", REPLACED)
def test_a_replaced_input_of_the_same_size_is_segmented_anew(how: str, predict: Command) -> None:
    path, new = draw("in/a.bmp"), draw("new.bmp", 5)
    assert path.stat().st_size == new.stat().st_size
    predict("in", "-f", "overlay", "-f", "coco")
    before = Path("out/overlay/a.jpg").read_bytes()
    REPLACED[how](path, new)
    assert predict("in", "-f", "overlay", "-f", "coco")[0] == 0
    assert Path("out/overlay/a.jpg").read_bytes() != before
    predict("in", "-f", "overlay", out="other")
    assert Path("out/overlay/a.jpg").read_bytes() == Path("other/overlay/a.jpg").read_bytes()


def test_a_video_that_became_an_image_of_its_name_leaves_no_masks(predict: Command) -> None:
    both = ("-f", "masks", "-f", "overlay")
    Path("in").mkdir()
    encode_video("in/a.mp4", scene(6)[0], fps=10)
    assert predict("in", *both)[0] == 0
    assert len(below("out/masks")) == 6
    Path("in/a.mp4").unlink()
    draw("in/a.png")
    assert predict("in", *both)[0] == 0
    assert below("out/masks") == ["a.png"]
    assert below("out/overlay") == ["a.jpg"]
    assert not Path("out/masks/a").exists()
    Path("in/a.png").unlink()
    encode_video("in/a.mp4", scene(6)[0], fps=10)
    assert predict("in", *both)[0] == 0
    assert below("out/masks") == [f"a/{t:06d}.png" for t in range(6)]


UNCHANGED = {
    "nothing": lambda _: None,
    "touched": lambda path: os.utime(path),
    "other rights": lambda path: path.chmod(0o600),
    "copied": lambda path: path.write_bytes(path.read_bytes()),
    "moved": lambda path: shutil.move("in", "elsewhere"),
}


@pytest.mark.parametrize("how", UNCHANGED)
def test_an_equal_input_is_not_segmented_again(how: str, predict: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    path = draw("in/a.png")
    assert predict("in")[0] == 0
    before = read_records(Path("out/records/a.jsonl"))
    assert before is not None
    UNCHANGED[how](path)
    monkeypatch.setattr(Segmenter, "predict_batch", None)
    folder = "in" if Path("in").is_dir() else "elsewhere"
    for _ in range(2):
        assert predict(folder)[0] == 0
        after = read_records(Path("out/records/a.jsonl"))
        assert after is not None
        assert after.frames == before.frames
        assert after.complete
        assert after.header["source"] == os.path.abspath(f"{folder}/a.png")
        monkeypatch.setattr("backdrop.app.records.content_hash", None)  # the second time the times are known


def test_pictures_of_another_content_are_removed(predict: Command) -> None:
    encode_video("run.mp4", scene(6)[0], fps=10)
    draw("a.png")
    assert predict("run.mp4", "a.png", "-f", "masks", "-f", "overlay")[0] == 0
    encode_video("run.mp4", scene(3)[0][::-1], fps=10)
    draw("a.png", 4)
    assert predict("run.mp4", "a.png", "-f", "masks")[0] == 0
    assert below("out/masks/run") == ["000000.png", "000001.png", "000002.png"]
    assert below("out/overlay") == [], "of what the files held before"


def test_a_video_that_changed_is_not_drawn_with_old_masks(predict: Command) -> None:
    for name in ("a", "b"):
        encode_video(f"{name}.mp4", scene(6)[0], fps=10)
    assert predict("a.mp4", "b.mp4")[0] == 0
    encode_video("a.mp4", scene(6)[0][::-1], fps=10)
    status, said = call("export", "out", "-f", "video")
    assert status == cli.SOME_FAILED
    assert "a.mp4 has changed since" in said
    assert below("out/video") == ["b.mp4"]


# ------------------------------------------------------------------------------------------------ one alone


@pytest.mark.parametrize("name", ["yolo", "coco", "davis", "labelstudio"])
def test_an_image_cut_in_half_costs_itself_in_exports_too(name: str, predict: Command) -> None:
    for t in range(4):
        draw(f"in/{t}.png", t)
    half = Path("in/2.png")
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    status, said = predict("in")
    assert status == cli.SOME_FAILED
    assert "2.png is no readable image" in said
    status, said = call("export", "out", "-f", name, "-f", "coco")
    assert status == cli.SOME_FAILED
    assert [line for line in said.splitlines() if "error" in line and "in/2.png is not segmented (" in line]
    assert "out/records/2.jsonl is not complete" in said
    assert "cannot be read, mend it, or remove both" in said
    assert shown() == ["0.png", "1.png", "3.png"]
    if name in ("yolo", "davis"):
        assert len(below(f"out/{name}")) == 3
    assert predict("in", "-f", name)[0] == cli.SOME_FAILED, "predict itself goes on to its exports"
    for t in (0, 1, 3):
        Path(f"out/records/{t}.jsonl").unlink()
    assert call("export", "out", "-f", name)[0] == 1


def _line(text: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines[:2], text + "\n", *lines[3:]]))

    return change


def _mask(**changes: object) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        lines = path.read_text().splitlines(keepends=True)
        row = json.loads(lines[2])
        row["mask"] |= changes
        path.write_text("".join([*lines[:2], json.dumps(row) + "\n", *lines[3:]]))

    return change


DAMAGED = {
    "no JSON": _line("{{{"),
    "no record": _line("[1]"),
    "a number": _line("7"),
    "deep": _line("[" * 100_000),
    "no mask": _line('{"frame":1}'),
    "mask of another size": _mask(size=[3, 4]),
    "mask too short": _mask(counts="1"),
    "mask too long": _mask(counts="zzzzzzzz"),
    "mask of odd letters": _mask(counts="\u00e9"),
    "empty": lambda path: path.write_bytes(b""),
    "bytes": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "header of nothing": lambda path: path.write_text('{"header":{}}\n{"whole":true}\n'),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_records_cost_themselves_alone_and_are_made_anew(kind: str, predict: Command) -> None:
    for name in ("a", "b"):
        encode_video(f"in/{name}.mp4", scene(4)[0], fps=10)
    assert predict("in", "-f", "coco")[0] == 0
    whole = Path("out/coco.json").read_bytes()
    DAMAGED[kind](Path("out/records/a.jsonl"))
    if kind != "a folder":
        status, said = call("export", "out", "-f", "coco")
        assert status == cli.SOME_FAILED
        assert "a.mp4" in said or "a.jsonl" in said
        assert len(shown()) == 4
        assert predict("in", "-f", "coco")[0] == 0
        assert Path("out/coco.json").read_bytes() == whole
        return
    status, said = predict("in", "-f", "coco")
    assert status == cli.SOME_FAILED
    assert "a.mp4: " in said
    assert "Is a directory" in said


def changing_size(path: Path) -> None:
    """A transport stream whose second half is larger, as a camera writes it when its settings are changed."""
    data = b""
    for size in ((96, 64), (128, 80)):
        part = io.BytesIO()
        with av.open(part, "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            for image in scene(4)[0]:
                frame = av.VideoFrame.from_ndarray(cv2.resize(image, size), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        data += part.getvalue()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize("more", [(), ("--instances", 2)])
def test_a_source_that_changes_its_size_costs_itself_in_the_format_that_cannot_hold_it(
    more: tuple[object, ...], predict: Command
) -> None:
    changing_size(Path("in/a.ts"))
    encode_video("in/b.mp4", scene(4)[0], fps=10)
    predict("in", *more)
    sizes = {record.size for record in read_records(Path("out/records/a.jsonl")).frames}  # type: ignore[union-attr]
    assert sizes == {(96, 64), (128, 80)}
    status, said = call("export", "out", "-f", "video", "-f", "coco", "-f", "davis")
    assert status == cli.SOME_FAILED
    assert "in/a.ts: " in said
    assert below("out/video") == ["b.mp4"]
    assert len(below("out/davis")) == len(shown()) > 4


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "ü" * 125 + ".png", "in/" + "y" * 250 + "/0.png"])
def test_a_long_name_is_one_line_at_most_and_the_others_go_on(name: str, predict: Command) -> None:
    draw(f"in/{name}")
    draw("in/a.png", 2)
    status, said = predict("in", *FORMATS)
    assert status in (0, cli.SOME_FAILED)
    assert (status == cli.SOME_FAILED) == ("its name is too long" in said)
    assert said.count("error: ") == (status == cli.SOME_FAILED)
    assert "a.png" in below("out/masks")
    assert "a.png" in shown()


def test_the_longest_name_is_named(predict: Command) -> None:
    name = "x" * 251 + ".png"
    draw(f"in/{name}")
    draw("in/a.png", 2)
    status, said = predict("in")
    assert status == cli.SOME_FAILED
    assert f"error: in/{name}: its name is too long for the files that are made of it; rename it" in said
    assert below("out/masks") == ["a.png"]
    assert predict(f"in/{name}")[0] == 1


@pytest.mark.parametrize("name", ["masks", "records", "yolo/labels", "davis/Annotations/in"])
def test_a_folder_where_a_result_belongs_is_one_line_and_the_others_go_on(name: str, predict: Command) -> None:
    for t in range(2):
        draw(f"in/{t}.png", t)
    end = {"masks": ".png", "records": ".jsonl", "yolo/labels": ".txt"}.get(name, ".png")
    Path(f"out/{name}/0{end}/full").mkdir(parents=True)
    status, said = predict("in", "-f", "masks", "-f", "yolo", "-f", "davis")
    assert status == cli.SOME_FAILED
    assert said.count("error: ") == 1
    assert "in/0.png: " in said
    assert "Is a directory" in said
    assert Path(f"out/{name}/1{end}").is_file()
    assert not [path for path in below("out") if Path(path).name.startswith(".") and path != ".lock"]


def test_a_broken_link_in_a_folder_is_status_3(predict: Command) -> None:
    draw("in/a.png")
    Path("in/b.png").symlink_to("nowhere")
    status, said = predict("in")
    assert status == cli.SOME_FAILED
    assert "error: in/b.png: a link that leads nowhere" in said
    assert below("out/masks") == ["a.png"]


def test_a_format_that_fits_no_source_keeps_none_from_being_written(predict: Command) -> None:
    draw("in/a.png")
    status, said = predict("in", "-f", "video", "-f", "coco")
    assert status == cli.SOME_FAILED
    assert "format video is for videos" in said
    assert shown() == ["a.png"]
    assert predict("in", "-f", "video")[0] == 1


def test_an_image_in_a_linked_folder_is_segmented(predict: Command) -> None:
    draw("elsewhere/0.png")
    Path("in").mkdir()
    Path("in/link").symlink_to("../elsewhere")
    Path("in/loop").symlink_to(".")
    status, said = predict("in")
    assert status == 0
    assert "links to folders that are read already: 1 (loop)" in said
    assert below("out/masks") == ["link/0.png"]
    assert np.asarray(Image.open("out/masks/link/0.png")).shape == scene(1)[0][0].shape[:2]
