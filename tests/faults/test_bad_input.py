"""Bad input, stage by stage: one message that names what is wrong and what to do, status 1, nothing half-written."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from backdrop.video.encode import encode_video
from tests.handmade_run import make_run
from tests.small_pipeline import (
    commands,
    contents,
    run_stage,
    small_values,
    stage,
    stage_names,
    write_outputs,
    write_params,
)

VIDEOS = {"data.layout": "videos", "data.root": "clips", "data.protocol": "self"}


def images(count: int, size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """Noise: each frame costs the same number of bytes, so that half the file is half the frames."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8) for _ in range(count)]


def image_folder(folder: Path, frames: list[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{t:05d}.png"), frame)


@pytest.fixture
def fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a stage that must fail: status 1, one error that says all of `said`, and not a byte changed on disk."""

    def run(name: str, *said: str) -> str:
        before = contents(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run_stage(name, tmp_path, monkeypatch)
        assert stopped.value.code == 1
        out, err = capsys.readouterr()
        assert len(re.findall(r"^error: ", err, re.MULTILINE)) == 1
        assert "Traceback" not in out + err
        message = err[err.index("error: ") :]
        for words in said:
            assert words in message
        after = contents(tmp_path)
        assert after.keys() == before.keys()
        assert after == before
        return message

    return run


# ------------------------------------------------------------------------------------------- footage


def no_video(clips: Path) -> None:
    clips.mkdir(exist_ok=True)
    (clips / "bad.mp4").write_text("this is no video")


def no_frame(clips: Path) -> None:
    """A video that breaks off before its first frame ends."""
    encode_video(clips / "bad.avi", images(8), codec="mjpeg")
    data = (clips / "bad.avi").read_bytes()
    (clips / "bad.avi").write_bytes(data[:6000])


def empty_file(clips: Path) -> None:
    (clips / "bad.mkv").write_bytes(b"")


def empty_folder(clips: Path) -> None:
    (clips / "bad").mkdir(parents=True)


def one_image(clips: Path) -> None:
    image_folder(clips / "bad", images(1))


def one_frame(clips: Path) -> None:
    encode_video(clips / "bad.mp4", images(1))


def mixed_sizes(clips: Path) -> None:
    image_folder(clips / "bad", [*images(3), *images(2, (32, 48))])


def damaged_image(clips: Path) -> None:
    image_folder(clips / "bad", images(3))
    data = (clips / "bad" / "00001.png").read_bytes()
    (clips / "bad" / "00001.png").write_bytes(data[: len(data) // 2])


def mask_of_another_size(clips: Path) -> None:
    image_folder(clips / "bad", images(3))
    image_folder(clips / "masks" / "bad", [np.zeros((24, 32), np.uint8)])


def mask_in_color(clips: Path) -> None:
    image_folder(clips / "bad", images(3))
    image_folder(clips / "masks" / "bad", images(1))


SKIPPED = {
    no_video: ("bad.mp4",),
    no_frame: ("bad.avi",),
    empty_file: ("bad.mkv",),
    empty_folder: ("bad", "is empty; put videos"),
    one_image: ("bad", "at least 2 are needed", "remove it"),
    one_frame: ("bad.mp4", "at least 2 are needed"),
    mixed_sizes: ("bad/00003.png is 32x48", "64x48", "split or resize"),
    damaged_image: ("00001.png",),
    mask_of_another_size: ("masks/bad/00000.png is 32x24", "is 64x48", "size of the frame"),
    mask_in_color: ("masks/bad/00000.png", "gray"),
}


@pytest.mark.parametrize("make", SKIPPED, ids=lambda f: f.__name__)
def test_the_only_sequence_is_bad(make: Callable[[Path], None], tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "clips").mkdir()
    make(tmp_path / "clips")
    write_params(tmp_path, VIDEOS)
    message = fails("frames", "clips", *SKIPPED[make])
    assert message.count("\n") == 1, "one line"


@pytest.mark.parametrize("make", SKIPPED, ids=lambda f: f.__name__)
def test_one_bad_sequence_among_many(
    make: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fails: Callable[..., str],
) -> None:
    (tmp_path / "clips").mkdir()
    encode_video(tmp_path / "clips" / "good.mp4", images(4))
    image_folder(tmp_path / "clips" / "fine", images(4))
    make(tmp_path / "clips")
    write_params(tmp_path, VIDEOS | {"data.strict": True})
    fails("frames", "data.strict", *SKIPPED[make])
    write_params(tmp_path, VIDEOS)
    run_stage("frames", tmp_path, monkeypatch)
    said = capsys.readouterr().err
    warnings = [line for line in said.splitlines() if "warning:" in line]
    assert len(warnings) == 1
    assert "bad (skipped)" in warnings[0]
    index = pd.read_csv(tmp_path / "data" / "frames" / "index.csv").set_index("sequence")
    assert dict(index["status"]) == {"bad": "skipped", "fine": "ok", "good": "ok"}
    for words in SKIPPED[make]:
        assert words in index.loc["bad", "reason"]
    assert {p.name for p in (tmp_path / "data" / "frames").iterdir()} == {"index.csv", "fine.zip", "good.zip"}
    run_stage("stabilize", tmp_path, monkeypatch)
    assert {p.stem for p in (tmp_path / "data" / "homographies").glob("*.npz")} == {"fine", "good"}


def test_a_truncated_video_is_named_and_its_whole_frames_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    (tmp_path / "clips").mkdir()
    encode_video(tmp_path / "clips" / "cut.avi", images(12), codec="mjpeg")
    data = (tmp_path / "clips" / "cut.avi").read_bytes()
    (tmp_path / "clips" / "cut.avi").write_bytes(data[: len(data) // 2])
    write_params(tmp_path, VIDEOS | {"data.strict": True})
    fails("frames", "data.strict", "cut (damaged)")
    write_params(tmp_path, VIDEOS)
    run_stage("frames", tmp_path, monkeypatch)
    assert "warning: cut (damaged)" in capsys.readouterr().err
    row = pd.read_csv(tmp_path / "data" / "frames" / "index.csv").iloc[0]
    assert row["status"] == "damaged"
    assert 2 <= row["frames"] < 12
    assert row["declared_frames"] == 12 or "12" in row["reason"]


def test_a_video_that_turns_bad_leaves_the_frames_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Callable[..., str]
) -> None:
    (tmp_path / "clips").mkdir()
    encode_video(tmp_path / "clips" / "bad.mp4", images(4))
    write_params(tmp_path, VIDEOS)
    run_stage("frames", tmp_path, monkeypatch)
    no_video(tmp_path / "clips")
    fails("frames", "bad.mp4")  # which holds the folder data/frames equal, byte by byte


def test_an_empty_root_and_a_missing_one(tmp_path: Path, fails: Callable[..., str]) -> None:
    write_params(tmp_path, VIDEOS)
    fails("frames", "data.root clips does not exist", "set data.root")
    (tmp_path / "clips").mkdir()
    fails("frames", "data.root clips", "nothing", "expected video files", ".mp4")
    write_params(tmp_path, VIDEOS | {"data.layout": "davis"})
    fails("frames", "data.root clips", "JPEGImages/480p")


@pytest.mark.parametrize("layout", ["handheld190k", "fs_singles", "h36m", "ski_ptz", "cdnet", "bms"])
def test_a_layout_says_what_it_expects(layout: str, tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "clips").mkdir()
    write_params(tmp_path, VIDEOS | {"data.layout": layout})
    fails("frames", f"layout {layout}", "expected")


def test_a_split_without_a_match(tmp_path: Path, fails: Callable[..., str]) -> None:
    (tmp_path / "clips").mkdir()
    for name in ("a", "b"):
        encode_video(tmp_path / "clips" / f"{name}.mp4", images(2))
    write_params(tmp_path, VIDEOS | {"data.protocol": "held_out", "data.test": ["c*"]})
    fails("frames", "data.test", "'c*'", "a, b")
    write_params(tmp_path, VIDEOS | {"data.protocol": "held_out"})
    fails("frames", "data.val and data.test", "data.protocol")


# ---------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("name", stage_names())
def test_unknown_keys_and_bad_values_stop_every_stage(name: str, tmp_path: Path, fails: Callable[..., str]) -> None:
    values = small_values({"train.rate": -1, "data.layout": "davs"})
    values["loss"]["alpah"] = values["loss"].pop("alpha")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    fails(name, "params.yaml", "loss.alpah: unknown key", "loss.alpha: missing", "train.rate", "data.layout", "'davs'")


def test_no_parameters_at_all(tmp_path: Path, fails: Callable[..., str]) -> None:
    fails("frames", "params.yaml does not exist", "python -m backdrop.params")


def test_the_exit_status_and_the_message_of_a_real_process(tmp_path: Path) -> None:
    """What the other tests see in this process, seen from outside, with the two loops' stages."""
    done = stage("s1_frames", tmp_path, "--out", "data/frames")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: params.yaml does not exist")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------- models and what came before


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Outputs of all stages, as if the pipeline had run."""
    write_outputs(tmp_path)
    write_params(tmp_path)
    return tmp_path


MISSING = {
    ("stabilize", "data/frames"): ("data/frames/index.csv", "run the stage frames"),
    ("flow", "data/homographies"): ("data/homographies/one.npz", "run the stage stabilize"),
    ("inpaint", "data/frames/one.zip"): ("data/frames/one.zip", "run the stage frames"),
    ("train", "models/inpainter_rgb"): ("models/inpainter_rgb", "no model folder"),
    ("train", "models/inpainter_flow"): ("models/inpainter_flow", "no model folder"),
    ("train", "data/flow"): ("data/flow/one.zip", "run the stage flow"),
    ("refine", "data/predictions"): ("data/predictions/threshold.json", "run the stage segment"),
    ("refine", "data/predictions_paper"): ("data/predictions_paper/threshold.json", "run the stage segment"),
    ("score", "data/predictions/threshold.json"): ("data/predictions/threshold.json", "run the stage segment"),
    ("score", "data/frames/two.zip"): ("data/frames/two.zip", "run the stage frames"),
}


@pytest.mark.parametrize(("name", "gone"), MISSING)
def test_what_a_stage_needs_is_missing(name: str, gone: str, project: Path, fails: Callable[..., str]) -> None:
    path = project / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    outputs(project, name)
    fails(name, *MISSING[name, gone])


def outputs(folder: Path, name: str) -> None:
    """Remove a stage's outputs, as DVC does before it runs one."""
    for out in {
        "stabilize": ["data/homographies"],
        "flow": ["data/flow"],
        "inpaint": ["models/inpainter_rgb", "models/inpainter_flow"],
        "train": ["models/joint"],
        "segment": ["data/predictions", "data/predictions_paper"],
        "refine": ["data/masks", "data/masks_paper"],
    }.get(name, []):
        shutil.rmtree(folder / out, ignore_errors=True)


def segmenting_model() -> str:
    """The folder that the stage segment reads."""
    words = commands("segment")[0]
    return words[words.index("--model") + 1]


def test_no_model_to_segment_with(project: Path, fails: Callable[..., str]) -> None:
    shutil.rmtree(project / segmenting_model())
    fails("segment", segmenting_model(), "no model folder")


def test_another_model_to_segment_with(project: Path, fails: Callable[..., str]) -> None:
    shutil.rmtree(project / segmenting_model())
    shutil.copytree(project / "models" / "inpainter_rgb", project / segmenting_model())
    fails("segment", segmenting_model(), "do not fit")


@pytest.mark.parametrize("name", ["stabilize", "flow", "train", "segment", "refine", "score"])
def test_a_damaged_archive_is_named_and_nothing_is_left_half_written(
    name: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs(project, name)
    for sequence in ("one", "two"):
        path = project / "data" / "frames" / f"{sequence}.zip"
        path.write_bytes(path.read_bytes()[:-400])
    before = contents(project / "data")
    with pytest.raises(SystemExit) as stopped:
        run_stage(name, project, monkeypatch)
    assert stopped.value.code == 1
    err = capsys.readouterr().err
    assert err.count("error: ") == 1
    assert re.search(r"data/frames/(one|two)\.zip.*run the stage frames again", err)
    assert {key: value for key, value in contents(project / "data").items() if value is not None} == {
        key: value for key, value in before.items() if value is not None
    }


@pytest.mark.parametrize("name", ["stabilize", "flow", "refine", pytest.param("segment", marks=pytest.mark.slow)])
def test_several_processes_leave_nothing_half_written_either(name: str, project: Path) -> None:
    """One damaged archive among three: what is there afterwards is whole, and the message is the only line."""
    make_run(project / "data", {"one": "all", "two": "all", "three": "all"}, frames=4)
    outputs(project, name)
    write_params(project, {"compute.workers": 2})
    path = project / "data" / "frames" / "two.zip"
    path.write_bytes(path.read_bytes()[:-400])
    _, file, *arguments = commands(name)[0]
    done = stage(Path(file).stem, project, *arguments)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line and not re.search(r"\d+%\|", line)]
    assert len(lines) == 1, done.stderr
    assert re.search(r"error: data/frames/two\.zip.*run the stage frames again", lines[0])
    files = [path for path in project.rglob("*") if path.is_file() and "frames" not in path.parts]
    assert not [path for path in files if path.name.startswith(".")]
    for path in files:
        if path.suffix in (".zip", ".npz"):
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["inpaint", "train", "segment"])
def test_a_gpu_that_is_not_there(name: str, project: Path, fails: Callable[..., str]) -> None:
    write_params(project, {"compute.device": "cuda"})
    fails(name, "GPU", "set compute.device to auto or cpu")


# ------------------------------------------------------------------------------------------- weights


@pytest.fixture
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and no weights downloaded before."""

    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("hub")))
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.usefixtures("offline")
def test_no_network_for_the_encoders_weights(project: Path, fails: Callable[..., str]) -> None:
    stages = (("weights", "train"), ("perceptual", "inpaint"), ("perceptual", "train"))
    for key, name in stages:
        write_params(project, {f"encoder.{key}": "imagenet", "inpainter.perceptual": 1.0})
        said = (f"encoder.{key}=imagenet", "Name or service not known", "resnet18.pth", f"encoder.{key}=none")
        fails(name, *said)


def test_a_folder_without_the_encoders_weights(project: Path, fails: Callable[..., str]) -> None:
    for key in ("perceptual", "weights"):
        write_params(project, {f"encoder.{key}": "weights"})
        fails("train", f"encoder.{key}=weights", "resnet18.safetensors")
    (project / "weights").mkdir()
    torch.save({"conv1.weight": torch.zeros(1)}, project / "weights" / "resnet18.pth")
    fails("train", "weights/resnet18.pth", "state dict")


def test_a_flow_checkpoint_that_is_not_there(project: Path, fails: Callable[..., str]) -> None:
    outputs(project, "flow")
    write_params(project, {"flow.model": "flownet2", "flow.checkpoint": "weights/flownet2.pt"})
    fails("flow", "flow.checkpoint weights/flownet2.pt does not exist", "local file", "things")
    (project / "weights").mkdir()
    (project / "weights" / "flownet2.pt").write_bytes(b"no checkpoint")
    fails("flow", "flow.checkpoint weights/flownet2.pt", "flownet2")
    write_params(project, {"flow.model": "flownet9", "flow.checkpoint": "things"})
    fails("flow", "flow.model flownet9", "did you mean", "flownet2")
    write_params(project, {"flow.model": "flownet2"})
    fails("flow", "flow.checkpoint", "flow.model=dis")


@pytest.mark.usefixtures("offline")
def test_no_network_for_the_flow_weights(project: Path, fails: Callable[..., str]) -> None:
    outputs(project, "flow")
    write_params(project, {"flow.model": "flownets", "flow.checkpoint": "things"})
    fails("flow", "flownets", "flow.checkpoint to the local file", "flow.model to dis")
