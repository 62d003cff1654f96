"""Disks that take nothing: full, read-only, no permission, a limit on files. One line that names the file and says what
to do, status 1, nothing half-written; with space the same command gives what an undisturbed run gives.

The disks are real: file systems in memory that are mounted for the test (where this is allowed, as for root in most
containers), limits of the system, and another user's rights.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import yaml

from backdrop.errors import WriteError
from backdrop.io.files import sweep
from backdrop.learn.checkpoints import Checkpoints
from backdrop.video.encode import encode_video
from tests.backdrop_command import call
from tests.handmade_run import scene
from tests.project_copy import TIMED, remove
from tests.small_pipeline import ROOT, contents, environment, run_stage, write_model, write_outputs, write_params

pytestmark = pytest.mark.usefixtures("one_thread")

NOBODY = 65534
FILLER = "filler"
VIDEOS = {"data.layout": "videos", "data.root": "clips", "data.protocol": "self"}
CHANGES = {"frames": VIDEOS}
LOGS = re.compile(r"(runs|metrics/(train|student|inpainter_\w+))(/|$)")
"""What grows while a stage trains."""
STAGES = [
    "render",
    "frames",
    "stabilize",
    "flow",
    "inpaint",
    "train",
    "student",
    "segment",
    "refine",
    "score",
    "report",
]
QUICK = {"frames", "stabilize", "train", "segment", "refine", "score"}
TIERS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in STAGES]
FEW = [pytest.param(name, marks=() if name in ("frames", "score") else pytest.mark.slow) for name in STAGES]


def outs(name: str) -> list[str]:
    """What a stage writes, by dvc.yaml."""
    spec = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]
    listed = [out for key in ("outs", "metrics", "plots") for out in spec.get(key, [])]
    paths = [next(iter(out)) if isinstance(out, dict) else out for out in listed]
    kinds = spec.get("matrix", {}).get("kind", [""])
    return sorted({path.replace("${item.kind}", kind) for path in paths for kind in kinds})


def prepare(folder: Path, name: str) -> None:
    """All that a stage needs and, as DVC has it, nothing of its own."""
    torch.manual_seed(0)
    write_outputs(folder)
    (folder / "clips").mkdir()
    for clip in ("a", "b"):
        encode_video(folder / "clips" / f"{clip}.mp4", scene(4)[0])
    write_params(folder, CHANGES.get(name))
    if name == "report":
        with pytest.MonkeyPatch.context() as patch:
            run_stage("score", folder, patch)
    for out in outs(name):
        remove(folder / out)


class File(NamedTuple):
    """Its length and its hash: models and what fills a disk are too large to be kept."""

    size: int
    md5: str


Files = dict[str, File | None]


def files(folder: Path) -> Files:
    """Every file and folder below but what fills the disk, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): summary(path) if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != FILLER
    }


def summary(path: Path) -> File:
    with path.open("rb") as stream:
        return File(path.stat().st_size, hashlib.file_digest(stream, "md5").hexdigest())


def made(folder: Path, name: str) -> Files:
    """What a stage has made that does not name the time."""
    found = files(folder)
    return {
        path: data
        for path, data in found.items()
        if path not in TIMED and any(path == out or path.startswith(f"{out}/") for out in outs(name))
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Files]:
    """Stage -> what it makes where nothing is in its way; each is run once."""
    known: dict[str, Files] = {}

    def find(name: str) -> Files:
        if name not in known:
            folder = tmp_path_factory.mktemp("complete")
            prepare(folder, name)
            with pytest.MonkeyPatch.context() as patch:
                run_stage(name, folder, patch)
            known[name] = made(folder, name)
            assert known[name]
        return known[name]

    return find


# ---------------------------------------------------------------------------------------------- disks


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system in memory."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "1g") as folder:
        yield folder


def fill(folder: Path, free: int) -> Path:
    """Leave so many bytes of a disk."""
    filler = folder / FILLER
    with filler.open("wb") as stream:
        if room(folder) > free:
            os.posix_fallocate(stream.fileno(), 0, room(folder) - free)
    return filler


def room(folder: Path) -> int:
    state = os.statvfs(folder)
    return state.f_bavail * state.f_frsize


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As after `ulimit -f`; Python ignores the signal, so that the write is refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """Nothing can be written below `folder`: root, whom no mode keeps out, becomes another user for the time."""
    if os.geteuid():
        below = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        modes = [path.stat().st_mode for path in below]
        for path in below:
            path.chmod(0o555)
        try:
            yield
        finally:
            for path, mode in zip(below, modes, strict=True):
                path.chmod(mode)
        return
    os.seteuid(NOBODY)
    try:
        if not os.access(ROOT / "stages" / "s1_frames.py", os.R_OK, effective_ids=True):
            pytest.skip("another user cannot read the project here")
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users may enter; pytest's are private."""
    folder = Path(tempfile.mkdtemp(prefix="backdrop-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


# --------------------------------------------------------------------------------------------- stages


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str | None]:
    """Run a stage that may fail for want of a disk; what it said, None if it did not fail."""

    def run(name: str, folder: Path, complete: Files, circumstances: object) -> str | None:
        before = files(folder)
        capsys.readouterr()
        status: object = 0
        with circumstances:  # type: ignore[attr-defined]
            try:
                run_stage(name, folder, monkeypatch)
            except SystemExit as stopped:
                status = stopped.code
        if status == 0:
            return None
        assert status == 1
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        (message,) = re.findall(r"^error: .*", err, re.MULTILINE)
        named = re.search(r"cannot write:? '?([^':]+)'?: ", message)
        assert named, message
        near = [out for out in ("runs", *outs(name)) if f"{out}/".startswith(f"{named[1]}/")]
        assert near or any(named[1].startswith(f"{out}/") for out in ("runs", *outs(name))), message
        assert re.search(r"; (free some|make the disk|give yourself|lift the).*, and run the same command", message)
        after = files(folder)
        assert {path: after.get(path) for path in before} == before, "something of before was touched"
        for path in after.keys() - before.keys():
            parts = path.split("/")
            assert not any(part.startswith(".") or part.endswith(".part") for part in parts), path
            if not LOGS.match(path) and path not in TIMED and after[path] is not None:
                assert after[path] == complete[path], f"{path} is half-written"
        return message

    return run


def finish(name: str, folder: Path, complete: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run with space, after DVC has removed what there was of its outputs."""
    for out in outs(name):
        remove(folder / out)
    run_stage(name, folder, monkeypatch)
    assert made(folder, name) == complete


@pytest.mark.parametrize("name", TIERS)
def test_a_full_disk(
    name: str, disk: Path, undisturbed: Callable, refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(disk, name)
    complete = undisturbed(name)
    filler = fill(disk, 0)
    message = refused(name, disk, complete, nullcontext())
    assert message, "it found room on a full disk"
    assert "No space left on device; free some space" in message
    filler.unlink()
    finish(name, disk, complete, monkeypatch)


def test_a_disk_with_room_for_one_sequence_skips_none(
    disk: Path, undisturbed: Callable, refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequence whose archive finds no room is as good as the others: to go on without it would be wrong."""
    complete = undisturbed("frames")
    prepare(disk, "frames")
    filler = fill(disk, complete["data/frames/a.zip"].size + 8192)
    message = refused("frames", disk, complete, nullcontext())
    assert message
    assert re.search(r"data/frames/\.parts-\w+/b\.zip", message)
    filler.unlink()
    finish("frames", disk, complete, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_disk_that_is_full_sooner_or_later(
    name: str,
    disk: Path,
    undisturbed: Callable,
    refused: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From 4 KB on ever more space, until there is enough: each file comes to be the first without."""
    complete, free, tried = undisturbed(name), 4096, 0
    prepare(disk, name)
    while True:
        filler = fill(disk, free)
        message = refused(name, disk, complete, nullcontext())
        filler.unlink()
        if message is None:
            break
        assert room(disk) > free, "the disk is too small for this test"
        tried, free = tried + 1, int(free * (2.5 if name in ("train", "student") else 1.7))  # models are large
        shutil.rmtree(disk / "runs", ignore_errors=True)
        for out in outs(name):
            remove(disk / out)
    with capsys.disabled():
        print(f"\n{name}: {tried} full disks, enough at {free} bytes", end=" ")
    assert tried
    assert made(disk, name) == complete


@pytest.mark.parametrize("name", FEW)
def test_a_read_only_disk(
    name: str, disk: Path, undisturbed: Callable, refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(disk, name)
    message = refused(name, disk, undisturbed(name), read_only(disk))
    assert message
    assert "Read-only file system; make the disk writable" in message
    finish(name, disk, undisturbed(name), monkeypatch)


@pytest.mark.parametrize("name", FEW)
def test_no_permission(
    name: str, shared: Path, undisturbed: Callable, refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(shared, name)
    message = refused(name, shared, undisturbed(name), without_rights(shared))
    assert message
    assert "Permission denied; give yourself the right" in message
    finish(name, shared, undisturbed(name), monkeypatch)


@pytest.mark.parametrize("name", FEW)
def test_a_limit_on_the_size_of_files(
    name: str, tmp_path: Path, undisturbed: Callable, refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a quota would, and without a mount: the first kilobytes of each file are taken."""
    prepare(tmp_path, name)
    largest = max(file.size for file in undisturbed(name).values() if file)
    message = refused(name, tmp_path, undisturbed(name), largest_file(min(largest // 2, 4096)))
    assert message
    assert "File too large; lift the limit" in message
    finish(name, tmp_path, undisturbed(name), monkeypatch)


def test_a_checkpoint_without_room_leaves_the_one_before(disk: Path) -> None:
    checkpoints = Checkpoints(disk / "runs", "key")
    checkpoints.save({"iteration": 1, "weights": torch.zeros(10000)})
    for free in (0, 4096, 20000):
        filler = fill(disk, free)
        with pytest.raises(WriteError, match=r"cannot write .*/runs/key\.pt: No space left on device; free some space"):
            checkpoints.save({"iteration": 2, "weights": torch.zeros(100000)})
        assert [path.name for path in (disk / "runs").iterdir()] == ["key.pt"]
        filler.unlink()
    state = checkpoints.load()
    assert state is not None
    assert state["iteration"] == 1


def test_maps_that_the_disk_has_no_room_for_kill_no_process(tmp_path: Path) -> None:
    """A page that cannot be had ends a process by SIGBUS: decoded frames do without, pseudo-masks are an error."""
    program = """
import sys
from pathlib import Path
from backdrop.errors import WriteError
from backdrop.learn import training_frames
from backdrop.student import pseudo_masks
folder = Path(sys.argv[1])
assert training_frames._scratch_map((100, 10000)) is None
try:
    pseudo_masks.allocate(folder / "labels.npy", (100, 100, 100), 255)
except WriteError as fault:
    print(fault)
"""
    with mounted(tmp_path / "disk", "256k") as folder:
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder)],
            env=environment(TMPDIR=str(folder), PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert "labels.npy: No space left on device; free some space" in done.stdout
    assert "warning: no room for 1 MB of decoded frames" in done.stdout + done.stderr


def test_what_a_killed_process_left_of_a_file_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    names = [".scores.abcdef_8.json", ".scores.json", ".score.abcdef_8.json", ".scores.abcdef_8.csv", "scores.json"]
    for name in names:
        (tmp_path / name).touch()
    sweep(tmp_path / "scores.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


# -------------------------------------------------------------------------------------------- predict


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A video, a model, and what `predict` makes of them; in a folder that other users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="backdrop-"))
    folder.chmod(0o755)
    encode_video(folder / "run.mp4", scene(6)[0], fps=10)
    write_model(folder / "segmenter")

    def predict(out: Path, kinds: tuple[str, ...] = ("masks", "npz", "coco", "video")) -> tuple[int, str]:
        model = ("--model", folder / "segmenter", "--device", "cpu", "--refine", "none", "--quiet")
        formats = [option for kind in kinds for option in ("-f", kind)]
        return call("predict", folder / "run.mp4", "-o", out, *model, *formats, "--batch", "1")

    complete = tmp_path_factory.mktemp("complete") / "out"
    assert predict(complete) == (0, "")
    yield SimpleNamespace(predict=predict, complete=contents(complete))
    shutil.rmtree(folder)


def refusal(said: str, status: int, out: Path, complete: dict[str, bytes | None]) -> None:
    """One line that names a file; whole files, and a record that ends in the middle."""
    assert status == 1
    assert re.fullmatch(rf"cannot write {re.escape(str(out))}\S*: .*; .*, and run the same command again", said), said
    for path, data in contents(out).items():
        assert not path.rpartition("/")[2].startswith(".") or path == ".lock", path
        if data is not None and path.endswith(".jsonl"):
            assert complete[path].startswith(data)
        elif data is not None:
            assert data == complete[path]


@pytest.mark.parametrize("free", [0, 4096, 12288, 40960])
def test_predict_on_a_full_disk(free: int, video: SimpleNamespace, disk: Path) -> None:
    filler = fill(disk, free)
    status, said = video.predict(disk / "out")
    refusal(said, status, disk / "out", video.complete)
    assert "No space left on device; free some space" in said
    filler.unlink()
    assert video.predict(disk / "out") == (0, "")
    assert contents(disk / "out") == video.complete


def test_predict_on_a_read_only_disk(video: SimpleNamespace, disk: Path) -> None:
    with read_only(disk):
        status, said = video.predict(disk / "out")
    refusal(said, status, disk / "out", video.complete)
    assert "Read-only file system; make the disk writable" in said
    assert not (disk / "out").exists()


def test_predict_without_permission(video: SimpleNamespace, shared: Path) -> None:
    with without_rights(shared):
        status, said = video.predict(shared / "out")
    refusal(said, status, shared / "out", video.complete)
    assert "Permission denied; give yourself the right" in said
    assert not (shared / "out").exists()


@pytest.mark.parametrize(("kinds", "limit"), [(("npz",), 1000), (("masks",), 800)], ids=["pictures", "records"])
def test_predict_with_a_limit_on_the_size_of_files(
    kinds: tuple[str, ...], limit: int, video: SimpleNamespace, tmp_path: Path
) -> None:
    with largest_file(limit):
        status, said = video.predict(tmp_path / "out", kinds)
    refusal(said, status, tmp_path / "out", video.complete)
    assert "File too large; lift the limit" in said
    assert ("records/run.jsonl" in said) == (kinds == ("masks",))
    assert video.predict(tmp_path / "out") == (0, "")
    assert contents(tmp_path / "out") == video.complete
