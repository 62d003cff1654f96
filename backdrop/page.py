"""The page of `backdrop demo`: drop an image or a short video, see mask, box and cells; all of it on this machine.

First what needs no page: segment a file, draw a frame at a threshold, write what is kept. Below it the page itself.
Gradio is imported where it is used: that takes seconds, and the other commands do without it.
"""

from __future__ import annotations

import html
import ipaddress
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from backdrop.crf import refine
from backdrop.datasets import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from backdrop.errors import BackdropError
from backdrop.masks import Box, Mask, box_pixels, entry
from backdrop.overlay import RED, Picture, draw_detection, draw_mask
from backdrop.params import CRFParams
from backdrop.predict import inner_box
from backdrop.segmenter import Prediction, Segmenter
from backdrop.sources import Frame, Source, find_sources, frames_of
from backdrop.video import (
    ArchiveWriter,
    Tally,
    atomic_path,
    damage,
    decode_image,
    encode_jpeg,
    encode_png,
    encode_video,
    probe,
    show,
)

BATCH = 4
"""Frames of a video in memory at a time."""
FRAMES, MOST = 120, 1000
"""How many frames of a video are taken, unless asked otherwise; how many can be asked for."""
PORTS = 100
"""How many ports are tried from the one asked for."""
KEEP_S = 3600
"""Seconds that files of a session are kept."""

Progress = Callable[[int, int], None]
"""Told (frames done, frames in all); in all may be a guess, where the file does not declare them."""


# ---------------------------------------------------------------------------------------------- segment


class Found(NamedTuple):
    """A frame and what the networks found in it: any threshold makes a mask of it without asking them again."""

    frame: Frame
    prediction: Prediction


class Clip:
    """Found frames of a video, read from an archive on disk one at a time; soft masks have 8 bits.

    Args:
        path: an archive of <t>.jpg, the frames, and <t>.png, the soft masks.
        stamps: number in the file and seconds of each frame.
        predictions: of each frame, with whatever mask.
    """

    def __init__(self, path: Path, stamps: Sequence[tuple[int, float]], predictions: Sequence[Prediction]) -> None:
        self.path, self.stamps, self.predictions = path, stamps, predictions

    def __len__(self) -> int:
        return len(self.stamps)

    def __getitem__(self, t: int) -> Found:
        with zipfile.ZipFile(self.path) as archive:
            image, soft = (decode_image(archive.read(name)) for name in (_jpeg(t), entry(t)))
        prediction = self.predictions[t]._replace(mask=soft[:, :, 0].astype(np.float32) / np.float32(255))
        return Found(Frame(*self.stamps[t], image), prediction)

    def __iter__(self) -> Iterator[Found]:
        return (self[t] for t in range(len(self)))


class Footage(NamedTuple):
    """A segmented file, as a session keeps it.

    folder: holds what belongs to it. frames: one of an image. surest: index of the frame whose mask is surest, to be
    shown first. fps: frames a second of the overlay video. fault: why the file is not whole, or "". cut: whether the
    video has more frames than were asked for.
    """

    source: Source
    folder: Path
    frames: Clip | list[Found]
    surest: int = 0
    fps: float = 1.0
    fault: str = ""
    cut: bool = False


def segment_file(
    segmenter: Segmenter, path: Path, folder: Path, every: int = 1, most: int = FRAMES, progress: Progress | None = None
) -> Footage:
    """Segment an image, or the first frames of a video; memory does not grow with the frames.

    Args:
        folder: exists, and gets frames and soft masks of a video.
        every: frames 0, every, 2 every, ... of a video. most: how many of these.

    Raises:
        BackdropError: the file is neither image nor video, or cannot be read; the message names it.
    """
    (source,) = find_sources([path])
    if path.stat().st_size == 0:
        raise BackdropError(f"{show(path)} is empty (0 bytes); choose another file")
    if not source.video:
        (frame,) = frames_of(source)
        return Footage(source, folder, [Found(frame, segmenter.predict(frame.image))])
    info, tally = probe(path), Tally()
    frames = frames_of(source, every, tally)
    total = min(most, math.ceil((info.declared_frames or most * every) / every))
    clip = _segment_clip(segmenter, islice(frames, most), folder / "frames.zip", progress, total)
    cut = next(frames, None) is not None  # read on: a frame more, or the end, which alone shows what is missing
    surest = int(np.argmax([prediction.presence for prediction in clip.predictions]))
    return Footage(source, folder, clip, surest, info.fps / every, damage(info, tally), cut)


def _segment_clip(
    segmenter: Segmenter, frames: Iterator[Frame], path: Path, progress: Progress | None, total: int
) -> Clip:
    stamps: list[tuple[int, float]] = []
    predictions: list[Prediction] = []
    nothing = np.zeros((0, 0), np.float32)
    with ArchiveWriter(path) as archive:
        while batch := list(islice(frames, BATCH)):
            for frame, prediction in zip(batch, segmenter.predict_batch([f.image for f in batch]), strict=True):
                archive.add(_jpeg(len(stamps)), encode_jpeg(frame.image))
                archive.add(entry(len(stamps)), encode_png(np.rint(prediction.mask * 255).astype(np.uint8)))
                stamps.append((frame.number, frame.time))
                predictions.append(prediction._replace(mask=nothing))
            if progress is not None:
                progress(len(stamps), max(total, len(stamps)))
    return Clip(path, stamps, predictions)


def _jpeg(t: int) -> str:
    return f"{t:06d}.jpg"


# ----------------------------------------------------------------------------------------- draw and keep


class View(NamedTuple):
    """What is shown of a frame: mask and box drawn in; the mask, (H, W), True = foreground; cell probabilities."""

    overlay: Picture
    mask: Mask
    cells: Picture


def draw(found: Found, threshold: float, crf: CRFParams | None = None) -> View:
    """A frame at a threshold in [0, 1], foreground above it. crf: None: the thresholded soft mask is the mask."""
    image, prediction = found.frame.image, found.prediction
    soft, box = prediction.mask, prediction.box
    mask = soft > threshold if crf is None else refine(image, soft, threshold, crf)  # type: ignore[arg-type] # a Literal
    return View(draw_box(draw_mask(image, mask), box), mask, draw_detection(image, box, prediction.cell, prediction.p))


def draw_box(image: Picture, box: Box) -> Picture:
    """The image with a box: cx, cy, w, h in [-1, 1] image coordinates; none where that is not finite."""
    picture = image.copy()
    if np.isfinite(box).all():
        height, width = picture.shape[:2]
        left, top, right, bottom = (round(edge) for edge in box_pixels(box, (width, height)))
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), RED, max(1, round(width / 320)), cv2.LINE_AA)
    return picture


def write_mask(footage: Footage, mask: Mask) -> Path:
    """The mask of an image as PNG (0 and 255), in the footage's folder; one of another threshold is replaced."""
    target = footage.folder / f"{Path(footage.source.name).name}_mask.png"
    with atomic_path(target) as temporary:
        temporary.write_bytes(_mask_png(mask))
    return target


def write_clip(
    footage: Footage, threshold: float, crf: CRFParams | None = None, progress: Progress | None = None
) -> tuple[Path, Path]:
    """Of a video a zip of masks (PNG, 0 and 255), named by the frame's number in the file, and the overlay as MP4.

    Returns:
        (zip, MP4), in the footage's folder; those of another threshold are replaced.

    Raises:
        BackdropError: the frames differ in size, or the disk is full.
    """
    name = Path(footage.source.name).name
    masks, video = footage.folder / f"{name}_masks.zip", footage.folder / f"{name}_overlay.mp4"
    with ArchiveWriter(masks) as archive:

        def drawn() -> Iterator[np.ndarray]:
            for done, found in enumerate(footage.frames, 1):
                view = draw(found, threshold, crf)
                archive.add(entry(found.frame.number), _mask_png(view.mask))
                height, width = view.mask.shape
                if progress is not None:
                    progress(done, len(footage.frames))
                # browsers play H.264 of even sides only
                yield np.pad(view.overlay, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")

        encode_video(video, drawn(), footage.fps, quality=80)
    return masks, video


def _mask_png(mask: Mask) -> bytes:
    return encode_png(mask.astype(np.uint8) * 255)


def numbers(found: Found, mask: Mask) -> dict[str, str]:
    """What is known of a frame, in words: subject's presence, box, cell probability, share of the mask."""
    box = inner_box(found.prediction.box, (mask.shape[1], mask.shape[0]))
    left, top, width, height = (round(value) for value in box)
    row, column = np.unravel_index(found.prediction.cell, found.prediction.p.shape)
    return {
        "Presence": f"{found.prediction.presence:.2f}",
        "Box": f"{width} × {height} px at ({left}, {top})",
        "Cell probability": f"{found.prediction.p.max():.2f} (row {row + 1}, column {column + 1})",
        "Mask": f"{mask.mean():.1%} of the image",
    }


# ---------------------------------------------------------------------------------------------- the page

MEANINGS = {
    "Presence": "how sure the model is that a subject is there at all, 0 to 1",
    "Box": "drawn in red; counted from the left and the top edge",
    "Cell probability": "the detector's, of its most likely grid cell; all cells together have 1",
    "Mask": "how much of the image is above the threshold",
}
HEADER = """<h1>Backdrop</h1>
<p class="lead">Drop a photo or a short video, and Backdrop finds its main subject and cuts it out.</p>
<p class="local">Everything stays on this machine: files are read and segmented here, sent nowhere, and deleted when the
program ends.</p>"""
EMPTY = '<p class="status">Nothing segmented yet: drop a file.</p>'
CSS = """
.gradio-container {width: 100% !important; max-width: 1240px !important; margin: 0 auto !important}
.head h1 {font-size: 1.7rem; margin: 0} .head p {margin: .25rem 0 0; line-height: 1.45}
.head .lead {font-size: 1.1rem} .head .local, .numbers small {color: var(--body-text-color-subdued)}
.status {margin: 0; line-height: 1.45; min-height: 2.9em} .numbers p {margin: 0 0 .9rem}
.numbers dl {display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: .9rem 1.4rem; margin: 0}
.numbers dt {color: var(--body-text-color-subdued)} .numbers dd {margin: 0; font-weight: 600}
.numbers small {display: block; font-weight: 400; line-height: 1.35}
footer {display: none !important}
@media (max-width: 640px) {.shot {height: 250px !important}}
"""
KEYS = """() => {
  let wait;
  document.addEventListener("keyup", event => {
    if (!event.target.matches("input[type=range]")) return;
    clearTimeout(wait);
    wait = setTimeout(() => event.target.dispatchEvent(new PointerEvent("pointerup", {bubbles: true})), 300);
  });
}"""
"""Gradio's sliders call it a release when the mouse lets go, never when a key does."""


def _numbers_html(found: Found, mask: Mask) -> str:
    values = numbers(found, mask)
    top = found.prediction.mask.max()
    empty = "" if mask.any() else f"<p>The mask is empty. Its surest pixel has {top:.2f}: lower the threshold.</p>"
    rows = (f"<div><dt>{k}</dt><dd>{v}<small>{MEANINGS[k]}</small></dd></div>" for k, v in values.items())
    return f"{empty}<dl>{''.join(rows)}</dl>"


def _status(footage: Footage) -> str:
    name, count = html.escape(footage.source.path.name), len(footage.frames)
    if not footage.source.video:
        height, width = footage.frames[0].frame.image.shape[:2]
        return f'<p class="status"><b>{name}</b>, {width} × {height} pixels</p>'
    more = " The video goes on; take more frames, or fewer of them, under “Videos”." if footage.cut else ""
    return f'<p class="status"><b>{name}</b>, {count} frame{"s" * (count != 1)} segmented.{more}</p>'


def message(fault: BackdropError, path: Path) -> str:
    """A fault's text with the file's name in place of its path, which is a temporary one that no person knows."""
    return str(fault).replace(show(path), show(path.name))


class Page:
    """What the page's controls call; a session's footage comes from and goes to its state.

    Args:
        folder: gets a folder for each footage.
    """

    def __init__(self, segmenter: Segmenter, crf: CRFParams | None, folder: Path) -> None:
        self.segmenter, self.crf, self.folder = segmenter, crf, folder

    def segment(
        self, path: str, every: float, most: float, threshold: float, refined: bool, old: Footage | None, tell: Any
    ) -> list[Any]:
        """Values of all outputs (see `_outputs`) for a new file.

        Args:
            old: what the session held; its files are removed.
            tell: Gradio's progress.
        """
        import gradio as gr

        source, folder = Path(path), Path(tempfile.mkdtemp(dir=self.folder))
        try:
            footage = segment_file(
                self.segmenter, source, folder, int(every), int(most), _bar(tell, "Finding the subject")
            )
            values = self._everything(footage, footage.surest, threshold, refined, tell)
        except BackdropError as fault:
            shutil.rmtree(folder, ignore_errors=True)
            raise gr.Error(html.escape(message(fault, source)), None, print_exception=False) from None
        forget(old)
        if footage.fault:
            name = html.escape(show(source.name))
            gr.Warning(f"{name} is not whole ({html.escape(footage.fault)}); what could be read is segmented")
        count = len(footage.frames)
        frame = gr.Slider(1, max(count, 2), footage.surest + 1, visible=footage.source.video and count > 1)
        return [footage, _status(footage), frame, *values]

    def redraw(self, footage: Footage | None, t: float, threshold: float, refined: bool, tell: Any) -> list[Any]:
        """Pictures, numbers and files at another threshold, or with the CRF; the networks are not asked."""
        import gradio as gr

        if footage is None:
            return [gr.skip()] * 8
        try:
            return self._everything(footage, self._place(footage, t), threshold, refined, tell)
        except BackdropError as fault:
            raise gr.Error(html.escape(message(fault, footage.source.path)), None, print_exception=False) from None

    def show(self, footage: Footage | None, t: float, threshold: float, refined: bool) -> list[Any]:
        """Mask, cells and numbers of another frame of a video; t counts from 1."""
        import gradio as gr

        if footage is None:
            return [gr.skip()] * 3
        found = footage.frames[self._place(footage, t)]
        return _pictures(found, self._view(found, threshold, refined))

    def _place(self, footage: Footage, t: float) -> int:
        return min(max(int(t) - 1, 0), len(footage.frames) - 1)

    def _view(self, found: Found, threshold: float, refined: bool) -> View:
        return draw(found, threshold, self.crf if refined else None)

    def _everything(self, footage: Footage, t: int, threshold: float, refined: bool, tell: Any) -> list[Any]:
        import gradio as gr

        found, video = footage.frames[t], footage.source.video
        view = self._view(found, threshold, refined)
        png = archive = movie = None
        if video:
            archive, movie = write_clip(footage, threshold, self.crf if refined else None, _bar(tell, "Drawing"))
        else:
            png = write_mask(footage, view.mask)
        return [
            gr.Image(None if video else view.overlay, visible=not video),
            gr.Video(movie, visible=video),
            *_pictures(found, view),
            gr.DownloadButton(value=png, visible=not video),
            gr.DownloadButton(value=archive, visible=video),
            gr.DownloadButton(value=movie, visible=video),
        ]


def _pictures(found: Found, view: View) -> list[Any]:
    """Mask, cells and numbers."""
    return [view.mask.astype(np.uint8) * 255, view.cells, _numbers_html(found, view.mask)]


def _bar(tell: Any, what: str) -> Progress:
    return lambda done, total: tell((done, total), desc=what, unit="frames")


def forget(footage: Footage | None) -> None:
    """Remove what a session kept on disk."""
    if footage is not None:
        shutil.rmtree(footage.folder, ignore_errors=True)


def build(segmenter: Segmenter, threshold: float, crf: CRFParams | None, folder: Path) -> Any:
    """The page as gradio.Blocks, not yet served.

    Args:
        threshold: what the slider starts at, in [0, 1]. crf: None: there is no CRF to choose.
        folder: gets what sessions keep.
    """
    import gradio as gr

    page = Page(segmenter, crf, folder)
    with gr.Blocks(title="Backdrop", analytics_enabled=False, delete_cache=(KEEP_S // 6, KEEP_S)) as blocks:
        gr.HTML(HEADER, elem_classes="head")
        session = gr.State(None, time_to_live=KEEP_S, delete_callback=forget)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                file, level, refined, most, every, again = _controls(threshold, crf is not None)
            with gr.Column(scale=2, min_width=300):
                status, frame, shown = _outputs()
        _connect(page, session, (file, level, refined, most, every, again), (status, frame, shown))
    return blocks


def _controls(threshold: float, crf: bool) -> tuple[Any, ...]:
    import gradio as gr

    kinds = [*IMAGE_SUFFIXES, *VIDEO_SUFFIXES]
    file = gr.File(label="Image or short video", file_types=kinds, height=150, elem_id="file")
    level = gr.Slider(
        0,
        1,
        threshold,
        step=0.01,
        label="Threshold",
        info="Lower: the mask takes in more.",
        buttons=[],
    )
    hint = "Dense CRF: some seconds an image." if crf else "Needs the CRF's parameters: start with --params FILE."
    refined = gr.Checkbox(False, label="Follow the edges in the image", info=hint, interactive=crf)
    with gr.Accordion("Videos", open=False):
        most = gr.Number(FRAMES, label="At most this many frames", precision=0, minimum=1, maximum=MOST)
        every = gr.Number(1, label="Every n-th frame", info="1: every frame.", precision=0, minimum=1, maximum=MOST)
        again = gr.Button("Segment again with these", size="sm")
    return file, level, refined, most, every, again


def _outputs() -> tuple[Any, Any, list[Any]]:
    """Status line, choice of a frame, and what `Page._everything` gives, in its order."""
    import gradio as gr

    still: dict[str, Any] = {"interactive": False, "format": "png", "buttons": ["fullscreen"], "elem_classes": "shot"}
    status = gr.HTML(EMPTY)
    image = gr.Image(label="Subject", height=420, **still)
    video = gr.Video(label="Subject", height=420, visible=False, interactive=False, buttons=[], elem_classes="shot")
    frame = gr.Slider(1, 2, 1, step=1, label="Frame shown below", visible=False, buttons=[])
    with gr.Row():
        mask = gr.Image(label="Mask", height=230, min_width=200, **still)
        cells = gr.Image(label="Cells (dot: probability)", height=230, min_width=200, **still)
    values = gr.HTML("", elem_classes="numbers", padding=False)
    with gr.Row():
        png = gr.DownloadButton("Download the mask (PNG)", visible=False)
        archive = gr.DownloadButton("Download the masks (zip of PNGs)", visible=False)
        movie = gr.DownloadButton("Download the video (MP4)", visible=False)
    return status, frame, [image, video, mask, cells, values, png, archive, movie]


def _connect(page: Page, session: Any, controls: tuple[Any, ...], outputs: tuple[Any, Any, list[Any]]) -> None:
    import gradio as gr

    file, level, refined, most, every, again = controls
    status, frame, shown = outputs
    everything = [session, status, frame, *shown]

    def segment(path, every, most, threshold, refined, old, progress=gr.Progress()):  # noqa: ANN001, ANN202, B008
        if path is None:
            raise gr.Error("Drop an image or a video first.", print_exception=False)
        return page.segment(path, every, most, threshold, refined, old, progress)

    def redraw(footage, t, threshold, refined, progress=gr.Progress()):  # noqa: ANN001, ANN202, B008
        return page.redraw(footage, t, threshold, refined, progress)

    def cleared(footage):  # noqa: ANN001, ANN202
        forget(footage)
        return [None, EMPTY, gr.Slider(visible=False), gr.Image(None, visible=True), gr.Video(None, visible=False),
                None, None, "", gr.DownloadButton(visible=False), gr.DownloadButton(visible=False),
                gr.DownloadButton(visible=False)]  # fmt: skip

    # one at a time: pictures of an old file must not come after those of a new one
    one: dict[str, Any] = {"concurrency_id": "one", "concurrency_limit": 1, "show_progress_on": [status]}
    hidden = one | {"api_visibility": "private"}
    asked = [file, every, most, level, refined, session]
    done = gr.on([file.upload, again.click], segment, asked, everything, api_name="segment", **one)
    done.failure(cleared, session, everything, **hidden)
    file.clear(cleared, session, everything, **hidden)
    state = [session, frame, level, refined]
    # "always_last": while one redraw runs, only the last of the changes that follow is drawn
    gr.on([level.release, refined.input], redraw, state, shown, trigger_mode="always_last", **hidden)
    frame.release(page.show, state, shown[2:5], trigger_mode="always_last", **hidden)


# -------------------------------------------------------------------------------------------------- serve


def loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def free_port(host: str, port: int) -> int:
    """`port`, or the next one that is free; any free one for 0.

    Raises:
        BackdropError: none of the next ports is free, or no such address is on this machine.
    """
    for candidate in range(port, min(port + PORTS, 65536)) if port else [0]:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host.strip("[]"), candidate, type=socket.SOCK_STREAM
            )[0]
            with socket.socket(family, kind, protocol) as probe_:
                probe_.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe_.bind(address)
                found = probe_.getsockname()[1]
            with socket.socket() as probe_:  # Gradio asks for it there, too
                probe_.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe_.bind(("127.0.0.1", found))
            return found
        except socket.gaierror as fault:
            raise BackdropError(f"--host {host} is no address ({fault.strerror}); 127.0.0.1 is this machine") from None
        except OSError as fault:
            reason = fault.strerror
    raise BackdropError(f"no port from {port} on is free at {host} ({reason}); choose another with --port or --host")


def open_page(
    segmenter: Segmenter,
    threshold: float,
    crf: CRFParams | None,
    folder: Path,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_upload: float = 200,
) -> Any:
    """Serve the page from another thread; gradio.Blocks, whose `local_url` is its address and `close()` ends it.

    Args:
        folder: gets uploads and results.
        max_upload: MB (of 2**20 bytes, as the page counts them) that a file may have.

    Raises:
        BackdropError: no port is free, or the address is none of this machine.
    """
    port = free_port(host, port)
    # before Gradio is imported: it sends statistics else, and asks the network for its newest version
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_TEMP_DIR": str(folder)}
    # Gradio calls its own server once, and must not ask a proxy for it
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(
        filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy", ""), host, "127.0.0.1", "localhost"])
    )
    import gradio as gr

    blocks = build(segmenter, threshold, crf, folder)
    font = ["system-ui", "sans-serif"]
    theme = gr.themes.Base(primary_hue="blue", font=font, font_mono=["ui-monospace", "monospace"])
    dim = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}
    blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        max_file_size=int(max_upload * 2**20),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        state_session_capacity=20,
        theme=theme.set(**dim, **{f"{name}_dark": "*neutral_300" for name in dim}),
        css=CSS,
        js=KEYS,
    )
    return blocks


def serve(
    segmenter: Segmenter, threshold: float, crf: CRFParams | None, host: str, port: int, max_upload: float
) -> None:
    """Serve the page until Ctrl-C; uploads and results are removed then. See `open_page`."""
    if not loopback(host):
        print(
            f"warning: --host {host} lets other machines open this page and send files to it; there is no password",
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory(prefix="backdrop-") as folder:
        blocks = open_page(segmenter, threshold, crf, Path(folder), host, port, max_upload)
        print(f"open {blocks.local_url} in a browser; Ctrl-C ends it", flush=True)
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # else uploads would stay on the disk
        try:
            blocks.block_thread()
        finally:
            blocks.close(verbose=False)
            signal.signal(signal.SIGTERM, before)
