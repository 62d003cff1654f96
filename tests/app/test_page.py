"""The page of `backdrop demo`: what it segments, draws and hands out, what it refuses, where it listens."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from backdrop.app import cli
from backdrop.app.page import callbacks, drawing, segmented_file, server
from backdrop.app.page.text import cells_html, message, numbers
from backdrop.app.project import models
from backdrop.app.segmenter import Segmenter
from backdrop.crf.dense import refine
from backdrop.draw import draw_mask
from backdrop.errors import BackdropError
from backdrop.video.decode import decode_video
from backdrop.video.encode import encode_video
from tests.handmade_run import HEIGHT, WIDTH, scene
from tests.small_pipeline import small_params, write_model

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES = 7
LIMIT = 0.3
"""MB that an upload may have."""

HALF = callbacks.ChosenThresholds(0.5, 0.5)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return Segmenter.load(write_model(tmp_path_factory.mktemp("model")), "cpu")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return scene(FRAMES)[0]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, pictures: list[np.ndarray]) -> Path:
    """An image, a video, the same cut off, and files that are neither."""
    folder = tmp_path_factory.mktemp("material")
    Image.fromarray(pictures[0]).save(folder / "photo.png")
    encode_video(folder / "run.mp4", pictures, fps=10)
    encode_video(folder / "cut.mp4", pictures, fps=10, codec="mjpeg")
    data = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    (folder / "broken.mp4").write_bytes(data[len(data) // 2 :])
    (folder / "zero.png").write_bytes(b"")
    (folder / "false.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not an image")
    (folder / "large.png").write_bytes(bytes(round(LIMIT * 2**20) + 1000))
    return folder


class NeverAsked:
    """In place of the networks, where they must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the networks were asked: {name}")


def silent(*_: Any, **__: Any) -> None:
    """In place of Gradio's progress."""


def read_png(data: bytes) -> np.ndarray:
    """The stored values."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


# ---------------------------------------------------------------------------------------- without a page


def test_an_image_is_segmented_and_drawn_at_any_threshold(
    material: Path, segmenter: Segmenter, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    segmented = segmented_file.segment_file(segmenter, material / "photo.png", tmp_path)
    (found,) = segmented.frames
    soft = segmenter.predict(pictures[0]).mask
    low, high = (float(np.quantile(soft, q)) for q in (0.3, 0.8))
    for threshold in (low, high):
        view = drawing.draw_frame(found, threshold)
        assert np.array_equal(view.mask, soft > threshold)
        assert 0 < view.mask.mean() < 1
        assert (view.overlay != draw_mask(pictures[0], view.mask)).any(), "no box"
        assert view.cells.shape[1] == 640
    assert drawing.draw_frame(found, high).mask.sum() < drawing.draw_frame(found, low).mask.sum()
    crf = small_params().crf
    assert np.array_equal(drawing.draw_frame(found, low, crf).mask, refine(pictures[0], soft, low, crf))  # type: ignore[arg-type] # a Literal


def test_the_mask_of_an_image_is_a_png(material: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    segmented = segmented_file.segment_file(segmenter, material / "photo.png", tmp_path)
    threshold = float(np.median(segmented.frames[0].prediction.mask))
    path = drawing.write_mask(segmented, drawing.draw_frame(segmented.frames[0], threshold).mask)
    stored = read_png(path.read_bytes())
    assert path.name == "photo_mask.png"
    assert np.array_equal(stored, drawing.draw_frame(segmented.frames[0], threshold).mask * np.uint8(255))


def test_the_cut_out_of_an_image_has_the_mask_as_alpha(
    material: Path, segmenter: Segmenter, tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    page, threshold = callbacks.Page(segmenter, None, tmp_path), float(np.median(segmenter.predict(pictures[0]).mask))
    answer = page.segment(str(material / "photo.png"), callbacks.Choices(threshold, False), None, silent)
    stored = np.asarray(Image.open(answer[0].folder / "photo_cutout.png"))
    mask = segmenter.predict(pictures[0]).mask > threshold
    assert answer[-3].visible
    assert answer[-3].value["orig_name"] == "photo_cutout.png"
    assert np.array_equal(stored[..., 3], mask * np.uint8(255))
    assert np.array_equal(stored[mask][:, :3], pictures[0][mask])


@pytest.mark.parametrize(
    ("every", "most", "expected"), [(1, 100, range(7)), (2, 100, range(0, 7, 2)), (1, 5, range(5))]
)
def test_a_video_gives_a_mask_for_each_frame_and_a_video(
    every: int, most: int, expected: range, material: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    reported: list[tuple[int, int]] = []
    segmented = segmented_file.segment_file(
        segmenter,
        material / "run.mp4",
        tmp_path,
        every=every,
        most=most,
        progress=lambda *done: reported.append(done),
    )
    assert reported[-1] == (len(expected), len(expected))
    assert segmented.cut == (most == 5)
    assert segmented.fault == ""
    threshold = float(np.median(segmented.frames[0].prediction.mask))
    masks, video, _ = drawing.write_clip(segmented, threshold)
    with zipfile.ZipFile(masks) as archive:
        assert archive.namelist() == [f"{number:06d}.png" for number in expected]
        for found in segmented.frames:
            stored = read_png(archive.read(f"{found.frame.number:06d}.png"))
            expected_mask = segmenter.predict(list(decode_video(material / "run.mp4"))[found.frame.number][2]).mask
            assert np.array_equal(stored > 0, found.prediction.mask > threshold)
            assert np.allclose(found.prediction.mask, expected_mask, atol=0.51 / 255), "8 bits"
    frames = list(decode_video(video))
    assert len(frames) == len(expected)
    assert frames[-1][1] == pytest.approx((len(expected) - 1) * every / 10, abs=0.01)
    assert segmented.surest == np.argmax([found.prediction.presence for found in segmented.frames])


def test_memory_is_bounded_by_a_batch(
    material: Path, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    batch = Segmenter.predict_batch

    def counting(self: Segmenter, images: list[np.ndarray], *rest: Any) -> Any:
        sizes.append(len(images))
        return batch(self, images, *rest)

    monkeypatch.setattr(Segmenter, "predict_batch", counting)
    segmented = segmented_file.segment_file(segmenter, material / "run.mp4", tmp_path)
    assert sizes == [4, 3]
    assert all(prediction.mask.size == 0 for prediction in segmented.frames.predictions), "soft masks are on disk"  # type: ignore[union-attr]


def test_an_odd_video_is_drawn_with_even_sides(segmenter: Segmenter, tmp_path: Path) -> None:
    encode_video(tmp_path / "odd.mp4", [np.full((51, 77, 3), 90, np.uint8)] * 2, fps=10)
    segmented = segmented_file.segment_file(segmenter, tmp_path / "odd.mp4", tmp_path)
    masks, video, _ = drawing.write_clip(segmented, 0.5)
    assert next(decode_video(video))[2].shape == (52, 78, 3)
    with zipfile.ZipFile(masks) as archive:
        assert read_png(archive.read("000000.png")).shape == (51, 77)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("zero.png", "zero.png is empty"),
        ("false.png", "false.png is no readable image"),
        ("broken.mp4", "broken.mp4 is no readable video"),
        ("notes.txt", "notes.txt is by its suffix neither"),
    ],
)
def test_bad_files_are_named_without_their_path(
    name: str, text: str, material: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    with pytest.raises(BackdropError) as caught:
        segmented_file.segment_file(segmenter, material / name, tmp_path)
    assert message(caught.value, material / name).startswith(text)


def test_a_video_cut_off_is_segmented_as_far_as_it_goes(material: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    segmented = segmented_file.segment_file(segmenter, material / "cut.mp4", tmp_path)
    assert 0 < len(segmented.frames) < FRAMES
    assert "declared" in segmented.fault or "corrupt" in segmented.fault


def test_numbers_are_those_of_the_prediction(material: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    (found,) = segmented_file.segment_file(segmenter, material / "photo.png", tmp_path).frames
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[: HEIGHT // 4] = True
    box = np.array([0.0, 0.0, 1.0, 0.5])
    found = found._replace(prediction=found.prediction._replace(box=box, cell=9, presence=0.456))
    values = numbers(found, mask)
    assert values["Mask"] == "25.0% of the image"
    assert values["Presence"] == "0.46"
    assert values["Box"] == f"{WIDTH // 2} × {HEIGHT // 4} px at ({WIDTH // 4}, {round(HEIGHT * 3 / 8)})"
    assert "row 2, column 2" in cells_html(found)
    assert f"a probability of {found.prediction.p.max():.2f} " in cells_html(found)
    assert "ell" not in str(values), "what the detector does is not on the first view"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.4", False), ("example.org", False)],
)  # fmt: skip
def test_only_loopback_addresses_are_local(host: str, expected: bool) -> None:
    assert server.loopback(host) == expected


def test_a_taken_port_gives_the_next() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < server.free_port("127.0.0.1", port) <= port + server.PORTS
    assert server.free_port("127.0.0.1", 0) > 0
    with pytest.raises(BackdropError, match="--host"):
        server.free_port("192.0.2.1", 7860)  # of no machine


# ------------------------------------------------------------------------------------------- with the page


@pytest.fixture(scope="module")
def served(segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_TEMP_DIR", "NO_PROXY", "no_proxy"):
            patch.setenv(name, "")  # so that what the page sets is undone
        blocks = server.open_page(segmenter, HALF, None, folder, address=server.Address(port=0), max_upload=LIMIT)
        yield blocks
        blocks.close(verbose=False)


@pytest.fixture(scope="module")
def client(served: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from gradio_client import Client

    return Client(
        served.local_url, verbose=False, analytics_enabled=False, download_files=tmp_path_factory.mktemp("got")
    )


def segment(client: Any, path: Path, **more: Any) -> Any:
    from gradio_client import handle_file

    values = {"every": 1, "most": 120, "threshold": 0.5, "refined": False} | more
    return client.predict(path=handle_file(str(path)), **values, api_name="/segment")


def test_the_page_listens_on_this_machine_alone(served: Any) -> None:
    assert served.local_url == f"http://127.0.0.1:{served.server_port}/"
    assert served.server.config.host == "127.0.0.1"
    assert served.share_url is None
    assert not served.analytics_enabled
    assert not served.run_history


def test_the_page_says_what_it_is_and_fetches_nothing_from_elsewhere(served: Any) -> None:
    text = urllib.request.urlopen(served.local_url, timeout=20).read().decode()
    assert '"title":"Backdrop"' in text
    assert "Everything stays on this machine" in text
    fetched = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']([^\"']+)", text)
    assert fetched
    outside = [one for one in fetched if re.match(r"(https?:)?//", one) and not one.startswith(served.local_url)]
    assert outside == []
    theme = urllib.request.urlopen(f"{served.local_url}theme.css", timeout=20).read().decode()
    assert "@import" not in theme
    assert re.findall(r"""url\(["']?(?!["']?data:)""", theme) == []
    assert "system-ui" in theme


def test_an_image_goes_through_the_page(client: Any, material: Path, segmenter: Segmenter, pictures: Any) -> None:
    threshold = float(np.median(segmenter.predict(pictures[0]).mask))
    answer = segment(client, material / "photo.png", threshold=threshold)
    files = [one["value"] if isinstance(one, dict) else one for one in answer]
    (mask,) = [one for one in files if isinstance(one, str) and one.endswith("photo_mask.png")]
    stored = read_png(Path(mask).read_bytes()) > 0
    assert np.array_equal(stored, segmenter.predict(pictures[0]).mask > threshold)
    assert any("Presence" in str(one) for one in answer)


def test_a_bad_file_is_one_message_and_the_page_goes_on(client: Any, material: Path) -> None:
    from gradio_client.exceptions import AppError

    for name in ("false.png", "zero.png", "broken.mp4"):
        with pytest.raises(AppError) as caught:
            segment(client, material / name)
        assert name in str(caught.value)
        assert str(material) not in str(caught.value)
        assert "gradio" not in str(caught.value)
    assert any("photo.png" in str(one) for one in segment(client, material / "photo.png"))


def test_uploads_above_the_limit_are_refused(served: Any, material: Path) -> None:
    def upload(name: str) -> int:
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        body += (material / name).read_bytes() + b"\r\n--x--\r\n"
        head = {"Content-Type": "multipart/form-data; boundary=x"}
        try:
            request = urllib.request.Request(f"{served.local_url}gradio_api/upload", body, head)
            return urllib.request.urlopen(request, timeout=20).status
        except urllib.error.HTTPError as refusal:
            return refusal.code

    assert upload("photo.png") == 200
    assert upload("large.png") == 413


def test_another_threshold_does_not_ask_the_networks(material: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    page = callbacks.Page(segmenter, small_params().crf, tmp_path)
    segmented, *first = page.segment(str(material / "run.mp4"), callbacks.Choices(0.5, False, 2, 3), None, silent)
    page.segmenter = NeverAsked()  # type: ignore[assignment]
    threshold = float(np.quantile(segmented.frames[1].prediction.mask, 0.7))
    for refined in (False, True):
        answer = page.redraw(segmented, 2, callbacks.Choices(threshold, refined), silent)
        expected = drawing.draw_frame(segmented.frames[1], threshold, page.crf if refined else None)
        assert np.array_equal(answer[2] > 0, expected.mask)
        assert len(first) == len(answer) + 2
        chosen = callbacks.ChosenThresholds(*((threshold, 0.9) if not refined else (0.9, threshold)))
        level, *answer = page.other_outlines(segmented, 2, refined, chosen, silent)
        assert level == threshold, "each kind of mask has its own"
        assert np.array_equal(answer[2] > 0, expected.mask)
    shown = page.show(segmented, 3, callbacks.Choices(threshold, False))
    assert np.array_equal(shown[0] > 0, drawing.draw_frame(segmented.frames[2], threshold).mask)


def test_a_new_file_removes_what_the_old_one_left(material: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    import gradio as gr

    page, choices = callbacks.Page(segmenter, None, tmp_path), callbacks.Choices(0.5, False, most=3)
    first = page.segment(str(material / "run.mp4"), choices, None, silent)[0]
    with pytest.raises(gr.Error):
        page.segment(str(material / "false.png"), choices, first, silent)
    assert list(tmp_path.iterdir()) == [first.folder]
    second = page.segment(str(material / "photo.png"), choices, first, silent)[0]
    assert list(tmp_path.iterdir()) == [second.folder]


class Ended:
    """A page that ends as soon as it is served."""

    local_url = "http://here/"

    def block_thread(self) -> None:
        pass

    def close(self, verbose: bool) -> None:
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_command_warns_where_others_can_reach_the_page(
    host: str, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "segmenter").mkdir(parents=True)
    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(Segmenter, "load", lambda *_: segmenter)
    monkeypatch.setattr(models, "threshold_of", lambda _, __, refined: 0.4 if refined else 0.3)

    def opened(*arguments: Any, **options: Any) -> Ended:
        given.append((arguments, options))
        return Ended()

    monkeypatch.setattr(server, "open_page", opened)
    result = CliRunner().invoke(cli.app, ["demo", *([] if host == "127.0.0.1" else ["--host", host])])
    assert result.exit_code == 0, result.output
    assert ("warning" in result.output) == (host == "0.0.0.0")
    ((*parts, folder), options) = given[0]
    assert parts == [segmenter, (0.3, 0.4), None], "no params.yaml here"
    assert options == {"address": server.Address(host, 7860), "max_upload": 200, "about": ""}
    assert not folder.exists(), "uploads are removed in the end"
    assert "--params" in str(CliRunner().invoke(cli.app, ["demo", "--params", "nowhere.yaml"]).exception)


def test_other_commands_do_not_import_gradio() -> None:
    import subprocess
    import sys

    code = "import sys, backdrop.app.cli; raise SystemExit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
