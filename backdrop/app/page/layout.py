"""The page itself: drop an image or a short video, see mask, box and cells.

Gradio is imported where it is used: that takes seconds, and the other commands do without it.
"""

from __future__ import annotations

import html
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from backdrop.app.page.drawing import FrameView, draw_frame, write_clip, write_mask
from backdrop.app.page.segmented import FRAMES, MOST, Found, Progress, SegmentedFile, segment_file
from backdrop.app.page.words import EMPTY, PAGE_HEADER, message, numbers_html, status_line
from backdrop.app.segmenter import Segmenter
from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError
from backdrop.io.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, show

KEEP_S = 3600
"""Seconds that files of a session are kept."""


class Page:
    """What the page's controls call; a session's footage comes from and goes to its state.

    Args:
        folder: gets a folder for each footage.
    """

    def __init__(self, segmenter: Segmenter, crf: CRFParams | None, folder: Path) -> None:
        self.segmenter, self.crf, self.folder = segmenter, crf, folder

    def segment(
        self,
        path: str,
        every: float,
        most: float,
        threshold: float,
        refined: bool,
        old: SegmentedFile | None,
        tell: Any,
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
                self.segmenter, source, folder, int(every), int(most), _progress_bar(tell, "Finding the subject")
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
        return [footage, status_line(footage), frame, *values]

    def redraw(self, footage: SegmentedFile | None, t: float, threshold: float, refined: bool, tell: Any) -> list[Any]:
        """Pictures, numbers and files at another threshold, or with the CRF; the networks are not asked."""
        import gradio as gr

        if footage is None:
            return [gr.skip()] * 8
        try:
            return self._everything(footage, self._place(footage, t), threshold, refined, tell)
        except BackdropError as fault:
            raise gr.Error(html.escape(message(fault, footage.source.path)), None, print_exception=False) from None

    def show(self, footage: SegmentedFile | None, t: float, threshold: float, refined: bool) -> list[Any]:
        """Mask, cells and numbers of another frame of a video; t counts from 1."""
        import gradio as gr

        if footage is None:
            return [gr.skip()] * 3
        found = footage.frames[self._place(footage, t)]
        return _page_pictures(found, self._view(found, threshold, refined))

    def _place(self, footage: SegmentedFile, t: float) -> int:
        return min(max(int(t) - 1, 0), len(footage.frames) - 1)

    def _view(self, found: Found, threshold: float, refined: bool) -> FrameView:
        return draw_frame(found, threshold, self.crf if refined else None)

    def _everything(self, footage: SegmentedFile, t: int, threshold: float, refined: bool, tell: Any) -> list[Any]:
        import gradio as gr

        found, video = footage.frames[t], footage.source.video
        view = self._view(found, threshold, refined)
        png = archive = movie = None
        if video:
            archive, movie = write_clip(
                footage, threshold, self.crf if refined else None, _progress_bar(tell, "Drawing")
            )
        else:
            png = write_mask(footage, view.mask)
        return [
            gr.Image(None if video else view.overlay, visible=not video),
            gr.Video(movie, visible=video),
            *_page_pictures(found, view),
            gr.DownloadButton(value=png, visible=not video),
            gr.DownloadButton(value=archive, visible=video),
            gr.DownloadButton(value=movie, visible=video),
        ]


def _page_pictures(found: Found, view: FrameView) -> list[Any]:
    """Mask, cells and numbers."""
    return [view.mask.astype(np.uint8) * 255, view.cells, numbers_html(found, view.mask)]


def _progress_bar(tell: Any, what: str) -> Progress:
    return lambda done, total: tell((done, total), desc=what, unit="frames")


def forget(footage: SegmentedFile | None) -> None:
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
        gr.HTML(PAGE_HEADER, elem_classes="head")
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
