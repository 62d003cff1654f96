"""Sources that are read as they come: a pipe, an address on this machine, and something that stands in for a camera."""

from __future__ import annotations

import errno
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from backdrop.app.live import inputs, session
from backdrop.app.live.feed import Feed
from backdrop.app.live.film import Film
from backdrop.app.live.inputs import live_input
from backdrop.app.records import read_records
from backdrop.app.segmenter import Segmenter
from backdrop.errors import BackdropError
from backdrop.io.files import writing
from backdrop.video import live
from backdrop.video.decode import decode_video, probe
from backdrop.video.encode import encode_video
from backdrop.video.live import AttachedCamera, LiveFrame, Stream
from tests.backdrop_command import call
from tests.handmade_run import HEIGHT, WIDTH, scene
from tests.small_pipeline import contents, environment, write_model

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES = 9


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "segmenter")


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage")
    encode_video(folder / "run.mkv", scene(FRAMES)[0], fps=10)
    encode_video(folder / "run.mp4", scene(FRAMES)[0], fps=10)
    return folder


@pytest.fixture
def predict(model: Path) -> Callable[..., tuple[int, str]]:
    return partial(call, "predict", "--model", model, "--device", "cpu", "--refine", "none", "--threshold", 0.4)


def predicting(model: Path, *words: object) -> list[str]:
    command = [sys.executable, "-m", "backdrop", "predict", *words, "--model", model, "--refine", "none"]
    return [str(word) for word in command]


def masks(out: Path, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "masks" / name).iterdir())}


class StandIn:
    """What OpenCV would give of a camera. `images` end: it drops out. between: called before each read."""

    def __init__(self, images: Sequence[np.ndarray], between: Callable[[int], None] = lambda _: None) -> None:
        self.images, self.between, self.count, self.released = images, between, 0, False

    def __call__(self, number: int) -> StandIn:
        self.number = number
        return self

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.between(self.count)
        if self.count >= len(self.images):
            return False, None
        self.count += 1
        return True, cv2.cvtColor(self.images[self.count - 1], cv2.COLOR_RGB2BGR)

    def release(self) -> None:
        self.released = True


def stand_in(monkeypatch: pytest.MonkeyPatch, camera: StandIn) -> StandIn:
    monkeypatch.setattr(live.cv2, "VideoCapture", camera)
    return camera


# ------------------------------------------------------------------------------------------------- what is live


@pytest.mark.parametrize(
    ("given", "label", "name"),
    [
        ("0", "camera 0", "camera0"),
        ("/dev/video2", "camera 2", "camera2"),
        ("-", "the pipe", "pipe"),
        ("rtsp://me:secret@cam.local:554/live/1?key=secret", "cam.local:554/live/1", "from_cam_local_1"),
        ("http://host/a%20b/run.mp4", "host/a%20b/run.mp4", "from_host_run"),
    ],
)
def test_what_is_live_and_what_it_is_called(given: str, label: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs.os, "isatty", lambda _: False)
    found = live_input([given])
    assert found is not None
    assert (found.label, found.name) == (label, name)
    assert "secret" not in found.label + found.name


def test_a_file_of_such_a_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    assert live_input(["0"]) is None
    assert live_input(["run.mp4", "*.mp4", "C:/run.mp4"]) is None


def test_a_live_source_stands_alone_and_a_terminal_is_no_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackdropError, match=r"camera 0 is read as it comes.* the only input; give run.mp4"):
        live_input(["run.mp4", "0"])
    monkeypatch.setattr(inputs.os, "isatty", lambda _: True)
    with pytest.raises(BackdropError, match="- reads a video from a pipe"):
        live_input(["-"])


def test_a_session_never_writes_over_another(tmp_path: Path) -> None:
    camera = inputs.LiveInput("0", "camera 0", "camera0")
    assert camera.source(tmp_path).name == "camera0"
    (tmp_path / "masks" / "camera0").mkdir(parents=True)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "camera0-2.jsonl").touch()
    assert camera.source(tmp_path).name == "camera0-3"


# ------------------------------------------------------------------------------------------------------- a pipe


def test_a_pipe_gives_the_masks_numbers_and_times_of_the_file(model: Path, footage: Path, tmp_path: Path) -> None:
    formats = ("-f", "masks", "-f", "csv", "-f", "video", "--quiet")
    subprocess.run(
        predicting(model, footage / "run.mkv", "-o", tmp_path / "file", *formats), env=environment(), check=True
    )
    with (footage / "run.mkv").open("rb") as stream:
        words = predicting(model, "-", "-o", tmp_path / "pipe", *formats)
        done = subprocess.run(words, stdin=stream, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert masks(tmp_path / "pipe", "pipe") == masks(tmp_path / "file", "run")
    of_file, of_pipe = (read_records(tmp_path / kind / "records" / f"{name}.jsonl") for kind, name in
                        (("file", "run"), ("pipe", "pipe")))  # fmt: skip
    assert of_file is not None
    assert of_pipe is not None
    assert of_pipe.frames == of_file.frames
    assert of_pipe.complete
    assert of_pipe.ending.end == pytest.approx(of_file.ending.end, abs=0.002)
    drawn = tmp_path / "pipe" / "video" / "pipe.mp4"
    assert [time for _, time, _ in decode_video(drawn)] == pytest.approx([t / 10 for t in range(FRAMES)], abs=0.001)
    ours = np.array([image for *_, image in decode_video(drawn)], int)
    theirs = np.array([image for *_, image in decode_video(tmp_path / "file" / "video" / "run.mp4")], int)
    assert np.abs(ours - theirs).mean() < 12 < 24 < np.abs(ours - theirs[::-1]).mean(), "coded twice, from noise"


def test_masks_are_written_while_the_pipe_is_open_and_ctrl_c_keeps_them(
    model: Path, footage: Path, tmp_path: Path
) -> None:
    """The other end sends all frames and then nothing: no mask waits for a batch to be full."""
    out = tmp_path / "out"
    words = predicting(model, "-", "-o", out, "-f", "masks", "-f", "coco", "-f", "video", "--batch", FRAMES + 5)
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=False)
    try:
        assert child.stdin is not None
        child.stdin.write((footage / "run.mkv").read_bytes())
        child.stdin.flush()
        deadline = time.monotonic() + 60
        while len(list(out.glob("masks/pipe/[0-9]*.png"))) < FRAMES - 2:  # the decoder keeps what it may need
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=30)[1].decode()
    finally:
        child.kill()
    assert child.returncode == 130
    found = read_records(out / "records" / "pipe.jsonl")
    assert found is not None
    assert found.complete
    count = len(found.frames)
    assert count == len(masks(out, "pipe")) >= FRAMES - 2
    assert f"stopped; {count} frames are kept as pipe in {out}" in said
    assert len(json.loads((out / "coco.json").read_text())["images"]) == count
    assert len(list(decode_video(out / "video" / "pipe.mp4"))) == count


def test_no_frame_of_a_pipe_is_dropped_however_slow_the_networks(
    footage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    threading.Thread(target=_pour, args=(footage / "run.mkv", write)).start()
    monkeypatch.setattr(live, "PIPE", f"pipe:{read}")
    feed = Feed(Stream(f"pipe:{read}", "the pipe"), 2, 2)
    numbers = []
    for together in feed.batches():
        assert len(together) <= 2
        numbers += [frame.number for frame in together]
        time.sleep(0.05)
    os.close(read)
    assert numbers == list(range(0, FRAMES, 2))
    assert (feed.dropped, feed.fault) == (0, None)


def _pour(path: Path, end: int) -> None:
    with os.fdopen(end, "wb") as stream:
        stream.write(path.read_bytes())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "what comes through the pipe is no readable video"),
        (b"no video at all" * 100, "what comes through the pipe is no readable video"),
        ("run.mp4", "a pipe cannot be read backwards: send a format that is whole from the front"),
    ],
    ids=["nothing", "text", "an index at the end"],
)
def test_a_pipe_that_cannot_be_read_is_one_line(
    data: Any, said: str, model: Path, footage: Path, tmp_path: Path
) -> None:
    if isinstance(data, str):  # as cameras and phones write it, and cut off before the index
        plain = tmp_path / "plain.mp4"
        with av.open(str(footage / data)) as source, av.open(str(plain), "w", format="mp4") as target:
            track = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = track
                    target.mux(packet)
        data = plain.read_bytes()[:-600]
    words = predicting(model, "-", "-o", tmp_path / "out")
    done = subprocess.run(words, input=data, env=environment(), capture_output=True)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not list(tmp_path.glob("out/masks/*"))
    assert not list(tmp_path.glob("out/records/*"))


def test_what_was_killed_is_kept_and_exported(model: Path, footage: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = predicting(model, "-", "-o", out, "-f", "video", "-f", "masks")
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment())
    try:
        assert child.stdin is not None
        child.stdin.write((footage / "run.mkv").read_bytes())
        child.stdin.flush()
        deadline = time.monotonic() + 60
        while len(list(out.glob("masks/pipe/[0-9]*.png"))) < FRAMES - 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    status, said = call("export", out, "-f", "csv")
    assert status == 3
    assert "the pipe (damaged): the command was killed while it was read" in said
    assert len((out / "csv" / "frames.csv").read_text().splitlines()) > FRAMES - 3
    for needs_frames in ("cutout", "alpha", "labelstudio-video", "video"):
        assert "its frames were not kept" in call("export", out, "-f", needs_frames, "-o", tmp_path / needs_frames)[1]


# --------------------------------------------------------------------------------------------------- an address


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(handler: Any) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_recording_on_a_server_is_read_whole(predict: Any, footage: Path, tmp_path: Path) -> None:
    assert predict(footage / "run.mp4", "-o", tmp_path / "file", "-q") == (0, "")
    with serving(partial(_Quiet, directory=str(footage))) as address:
        status, said = predict(f"{address}/run.mp4", "-o", tmp_path / "out")
        assert status == 0, said
        assert "dropped" not in said
        assert masks(tmp_path / "out", "from_127_0_0_1_run") == masks(tmp_path / "file", "run")
        status, said = predict(f"{address}/none.mp4", "-o", tmp_path / "none")
    assert status == 1
    assert "/none.mp4 cannot be opened" in said
    assert not (tmp_path / "none" / "records").exists()
    status, said = predict(f"{address}/run.mp4", "-o", tmp_path / "gone")
    assert (status, "Connection refused" in said) == (1, True)


def test_a_recording_that_breaks_off_is_named_and_what_came_is_kept(predict: Any, tmp_path: Path) -> None:
    noise = [np.random.default_rng(t).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for t in range(60)]
    encode_video(tmp_path / "run.mp4", noise, fps=10)
    data = (tmp_path / "run.mp4").read_bytes()
    assert len(data) > 300_000

    class Broken(_Quiet):
        def do_GET(self) -> None:  # noqa: N802 - the base class's name
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) * 2 // 3])

    with serving(Broken) as address:
        status, said = predict(f"{address}/run.mp4", "-o", tmp_path / "out", "-q")
    assert status == 3, said
    count = len(masks(tmp_path / "out", "from_127_0_0_1_run"))
    assert 0 < count < 60
    (line,) = said.splitlines()
    assert f"{count} frames are kept as from_127_0_0_1_run" in line
    assert f"dropped out after {count} frames" in line


def test_of_what_has_no_end_the_newest_frame_is_taken(tmp_path: Path) -> None:
    stream = tmp_path / "run.ts"
    with av.open(str(stream), "w", format="mpegts") as target:
        track = target.add_stream("mpeg2video", rate=25)
        track.width, track.height, track.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        images = [frame for _ in range(6) for frame in scene(FRAMES)[0]]
        for image in images:
            for packet in track.encode(av.VideoFrame.from_ndarray(image, "rgb24")):
                target.mux(packet)
        for packet in track.encode():
            target.mux(packet)

    class Endless(_Quiet):
        def do_GET(self) -> None:  # noqa: N802
            self.send_response(200)
            self.end_headers()
            data = stream.read_bytes()
            for k in range(0, len(data), 188 * 40):
                self.wfile.write(data[k : k + 188 * 40])
                self.wfile.flush()

    with serving(Endless) as address:
        feed = Feed(Stream(f"{address}/live", "live"), 1, 8)
        numbers: list[int] = []
        for together in feed.batches():
            assert len(together) == 1
            numbers.append(together[0].number)
            time.sleep(0.2)
    assert numbers == sorted(set(numbers))
    assert len(images) - 1 <= numbers[-1] + 1 == len(numbers) + feed.dropped
    assert feed.dropped > 0


# ---------------------------------------------------------------------------------------------------- a camera


def test_a_camera_that_drops_out_is_named_and_the_same_command_goes_on(
    predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live.time, "monotonic", iter(np.arange(100) / 10).__next__)
    camera = stand_in(monkeypatch, StandIn(scene(4)[0], between=_taken(tmp_path / "out", "camera0")))
    status, said = predict(0, "-o", tmp_path / "out", "-f", "masks", "-f", "coco")
    assert status == 3
    assert "error: camera 0 dropped out after 4 frames (0.3 s; is it unplugged, or asleep?); 4 frames are kept" in said
    assert "run the same command again to go on" in said
    assert camera.number == 0
    assert camera.released
    found = read_records(tmp_path / "out" / "records" / "camera0.jsonl")
    assert found is not None
    assert [record.frame for record in found.frames] == [0, 1, 2, 3]
    assert [record.time for record in found.frames] == pytest.approx([0, 0.1, 0.2, 0.3])
    before = masks(tmp_path / "out", "camera0")
    assert len(before) == 4
    stand_in(monkeypatch, StandIn(scene(2)[0], between=_taken(tmp_path / "out", "camera0-2")))
    assert predict(0, "-o", tmp_path / "out", "-q")[0] == 3
    assert masks(tmp_path / "out", "camera0") == before
    assert len(masks(tmp_path / "out", "camera0-2")) == 2


def _taken(out: Path, name: str) -> Callable[[int], None]:
    """Waits until the mask of the frame before is there, so that none is dropped."""

    def wait(count: int) -> None:
        deadline = time.perf_counter() + 30
        while count and not (out / "masks" / name / f"{count - 1:06d}.png").exists():
            assert time.perf_counter() < deadline
            time.sleep(0.005)

    return wait


def test_frames_that_come_while_the_networks_are_busy_are_dropped_and_told(
    predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first frame is in work, four come: the last of them is the next one."""
    came = threading.Event()

    def between(count: int) -> None:
        if count == 5:
            came.set()
            _taken(tmp_path / "out", "camera0")(5)

    real = Segmenter.predict_batch

    def busy(self: Segmenter, *arguments: Any) -> Any:
        assert came.wait(30)
        return real(self, *arguments)

    monkeypatch.setattr(Segmenter, "predict_batch", busy)
    monkeypatch.setattr(Feed, "_offer", _first_taken(Feed._offer))
    stand_in(monkeypatch, StandIn(scene(5)[0], between))
    status, said = predict(0, "-o", tmp_path / "out")
    assert status == 3
    assert sorted(masks(tmp_path / "out", "camera0")) == ["000000.png", "000004.png"]
    assert "3 of 5 frames were dropped: they came while the networks were busy" in said


def _first_taken(offer: Callable[[Feed, LiveFrame], None]) -> Callable[[Feed, LiveFrame], None]:
    """Offers the second frame no sooner than the first one is taken."""

    def patient(self: Feed, frame: LiveFrame) -> None:
        deadline = time.perf_counter() + 30
        while frame.number == 1 and self._waiting:
            assert time.perf_counter() < deadline
            time.sleep(0.005)
        offer(self, frame)

    return patient


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_camera_cleanly(
    kind: signal.Signals, predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def between(count: int) -> None:
        _taken(tmp_path / "out", "camera0")(count)
        if count == 3:
            os.kill(os.getpid(), kind)
            time.sleep(0.3)

    before = signal.getsignal(kind)
    stand_in(monkeypatch, StandIn(scene(50)[0], between))
    status, said = predict(0, "-o", tmp_path / "out", "-f", "masks", "-f", "csv")
    assert status == 130
    found = read_records(tmp_path / "out" / "records" / "camera0.jsonl")
    assert found is not None
    assert found.complete
    assert 3 <= len(found.frames) <= 5
    assert f"stopped; {len(found.frames)} frames are kept as camera0 in {tmp_path / 'out'}" in said
    assert (tmp_path / "out" / "csv" / "frames.csv").is_file()
    assert signal.getsignal(kind) == before


def test_a_camera_that_cannot_be_opened_or_gives_nothing_is_one_line(
    predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status, said = predict(99, "-o", tmp_path / "out")
    assert status == 1
    assert said.startswith("camera 99 cannot be opened; is it plugged in")
    assert capfd.readouterr().err.count("\n") == 0
    stand_in(monkeypatch, StandIn([]))
    status, said = predict(0, "-o", tmp_path / "out")
    assert (status, "camera 0 gave not one frame" in said) == (1, True)
    assert not (tmp_path / "out" / "records").exists()
    status, said = predict(0, "-o", tmp_path / "out", "-f", "cutout")
    assert (status, "--format cutout reads the frames again" in said) == (1, True)


def test_a_fault_of_ours_is_not_taken_for_the_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_: int) -> None:
        raise ZeroDivisionError

    stand_in(monkeypatch, StandIn(scene(1)[0], wrong))
    with pytest.raises(ZeroDivisionError):
        list(Feed(AttachedCamera(0), 1, 1).batches())


# ------------------------------------------------------------------------------------------------------ the film


def test_a_film_can_be_played_while_it_is_written_and_keeps_times(tmp_path: Path) -> None:
    images = [cv2.GaussianBlur(cv2.resize(image, (127, 81)), (0, 0), 5) for image in scene(40)[0]]
    with Film(tmp_path / "run.mp4") as film:
        for t, image in enumerate(images):
            film.add(image, t * t / 100)
        shown = list(decode_video(tmp_path / "run.mp4"))
        assert len(shown) >= 30, "what came before the last fragment"
    shown = list(decode_video(tmp_path / "run.mp4"))
    assert [time for _, time, _ in shown] == pytest.approx([t * t / 100 for t in range(40)], abs=0.001)
    assert np.abs(shown[7][2].astype(int) - images[7][:80, :126]).mean() < 3
    assert (probe(tmp_path / "run.mp4").width, probe(tmp_path / "run.mp4").height) == (126, 80)
    with Film(tmp_path / "two.mp4") as film:
        film.add(images[0], 0.0)
        with pytest.raises(BackdropError, match="frames have changed their size to 64x40"):
            film.add(images[0][:40, :64], 0.1)


def test_a_disk_that_fills_while_a_camera_runs_keeps_what_is_there(
    predict: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = session.Pictures.write

    def full(self: Any, found: Any, record: Any) -> None:
        if record.frame >= 2:
            with writing(tmp_path / "out"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, found, record)

    monkeypatch.setattr(session.Pictures, "write", full)
    stand_in(monkeypatch, StandIn(scene(4)[0], _taken_or_over(tmp_path / "out")))
    status, said = predict(0, "-o", tmp_path / "out", "-q")
    assert (status, "No space left on device; free some space" in said) == (1, True)
    assert len(masks(tmp_path / "out", "camera0")) == 2
    assert contents(tmp_path / "out")["records/camera0.jsonl"].count(b"\n") == 3  # type: ignore[union-attr]


def _taken_or_over(out: Path) -> Callable[[int], None]:
    return lambda count: _taken(out, "camera0")(min(count, 2))
