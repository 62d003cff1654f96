"""What the page's controls call.

Gradio is imported where it is used: that takes seconds, and the other commands do without it.
"""

from __future__ import annotations

import html
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backdrop.app.page.drawing import FrameView, draw_frame, write_clip, write_cut_out, write_mask
from backdrop.app.page.segmented_file import FRAMES, Progress, SegmentedFile, segment_file
from backdrop.app.page.text import cells_html, message, numbers_html, status_line
from backdrop.app.reader import Found
from backdrop.app.segmenter import Segmenter
from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError
from backdrop.io.files import show


class Choices(NamedTuple):
    """What a person chose on the page.

    threshold: in [0, 1]; foreground is above it.
    refined: whether the CRF makes the masks.
    every, most: frames 0, every, 2 every, ... of a video, and how many of these.
    """

    threshold: float
    refined: bool
    every: int = 1
    most: int = FRAMES


class ChosenThresholds(NamedTuple):
    """What the model's project chose, in [0, 1], and `backdrop predict` takes: plain before the CRF, crf after it."""

    plain: float
    crf: float


class Page:
    """What the page's controls call. A session's file comes from its state and goes back to it.

    Args:
        crf: None: no mask is refined.
        folder: each file gets a folder in it.
    """

    def __init__(self, segmenter: Segmenter, crf: CRFParams | None, folder: Path) -> None:
        asked = None if crf is None else crf.model_copy(update={"enabled": True})  # by the one who ticks the box
        self.segmenter, self.crf, self.folder = segmenter, asked, folder

    def segment(self, path: str, choices: Choices, old: SegmentedFile | None, progress: Any) -> list[Any]:
        """Values of all outputs (see `layout._outputs`) for a new file.

        Args:
            old: what the session held. Its files are removed.
            progress: Gradio's.
        """
        import gradio as gr

        source, folder = Path(path), Path(tempfile.mkdtemp(dir=self.folder))
        try:
            segmented = segment_file(
                self.segmenter,
                source,
                folder,
                every=choices.every,
                most=choices.most,
                progress=_progress_bar(progress, "Finding the subject"),
            )
            values = self._everything(segmented, segmented.surest, choices, progress)
        except BackdropError as fault:
            shutil.rmtree(folder, ignore_errors=True)
            raise gr.Error(html.escape(message(fault, source)), None, print_exception=False) from None
        forget(old)
        if segmented.fault:
            name = html.escape(show(source.name))
            gr.Warning(f"{name} is not complete ({html.escape(segmented.fault)}); what could be read is segmented")
        count = len(segmented.frames)
        frame = gr.Slider(1, max(count, 2), segmented.surest + 1, visible=segmented.source.video and count > 1)
        return [segmented, status_line(segmented), frame, *values]

    def redraw(self, segmented: SegmentedFile | None, t: int | float, choices: Choices, progress: Any) -> list[Any]:
        """Pictures, numbers and files at another threshold, or with the CRF. The networks are not asked."""
        import gradio as gr

        if segmented is None:
            return [gr.skip()] * 10
        try:
            return self._everything(segmented, self._place(segmented, t), choices, progress)
        except BackdropError as fault:
            raise gr.Error(html.escape(message(fault, segmented.source.path)), None, print_exception=False) from None

    def other_outlines(
        self,
        segmented: SegmentedFile | None,
        t: int | float,
        refined: bool,
        thresholds: ChosenThresholds,
        progress: Any,
    ) -> list[Any]:
        """The threshold that goes with the CRF, or without it, and what `redraw` gives at it."""
        level = thresholds.crf if refined else thresholds.plain
        return [level, *self.redraw(segmented, t, Choices(level, refined), progress)]

    def show(self, segmented: SegmentedFile | None, t: int | float, choices: Choices) -> list[Any]:
        """What `_page_pictures` gives, of another frame of a video; t counts from 1."""
        import gradio as gr

        if segmented is None:
            return [gr.skip()] * 4
        found = segmented.frames[self._place(segmented, t)]
        return _page_pictures(found, draw_frame(found, choices.threshold, self._crf(choices)))

    def _place(self, segmented: SegmentedFile, t: int | float) -> int:
        return min(max(int(t) - 1, 0), len(segmented.frames) - 1)

    def _crf(self, choices: Choices) -> CRFParams | None:
        return self.crf if choices.refined else None

    def _everything(self, segmented: SegmentedFile, t: int, choices: Choices, progress: Any) -> list[Any]:
        import gradio as gr

        found, video = segmented.frames[t], segmented.source.video
        threshold, crf = choices.threshold, self._crf(choices)
        view = draw_frame(found, threshold, crf)
        png = cut = archive = movie = None
        if video:
            archive, movie, lost = write_clip(segmented, threshold, crf, _progress_bar(progress, "Drawing"))
            if lost:
                gr.Warning(f"Not all sound is in the video ({html.escape(lost)})")
        else:
            png, cut = write_mask(segmented, view.mask), write_cut_out(segmented, view.mask)
        return [
            gr.Image(None if video else view.overlay, visible=not video),
            gr.Video(movie, visible=video),
            *_page_pictures(found, view),
            gr.DownloadButton(value=png, visible=not video),
            gr.DownloadButton(value=cut, visible=not video),
            gr.DownloadButton(value=archive, visible=video),
            gr.DownloadButton(value=movie, visible=video),
        ]


def _page_pictures(found: Found, view: FrameView) -> list[Any]:
    """Mask and numbers, cells and their numbers."""
    return [view.mask.astype(np.uint8) * 255, numbers_html(found, view.mask), view.cells, cells_html(found)]


def _progress_bar(progress: Any, title: str) -> Progress:
    return lambda done, total: progress((done, total), desc=title, unit="frames")


def forget(segmented: SegmentedFile | None) -> None:
    """Remove what a session has on the disk."""
    if segmented is not None:
        shutil.rmtree(segmented.folder, ignore_errors=True)
