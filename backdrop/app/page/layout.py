"""The page's controls and where they stand: drop an image or a short video, see mask and box.

Gradio is imported where it is used: that takes seconds, and the other commands do without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backdrop.app.page.callbacks import Choices, ChosenThresholds, Page, forget
from backdrop.app.page.segmented_file import FRAMES, MOST
from backdrop.app.page.text import EMPTY, page_header
from backdrop.app.segmenter import Segmenter
from backdrop.crf.parameters import CRFParams
from backdrop.io.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES

KEEP_S = 3600
"""Seconds that files of a session stay on the disk."""


def build(
    segmenter: Segmenter, thresholds: ChosenThresholds, crf: CRFParams | None, folder: Path, about: str = ""
) -> Any:
    """The page as gradio.Blocks, not yet served.

    Args:
        thresholds: what the slider starts at, and what it goes to where the CRF is chosen.
        crf: None: there is no CRF to choose.
        folder: for the files of sessions.
        about: what the model was trained on; "": it is not known.
    """
    import gradio as gr

    page = Page(segmenter, crf, folder)
    with gr.Blocks(title="Backdrop", analytics_enabled=False, delete_cache=(KEEP_S // 6, KEEP_S)) as blocks:
        gr.HTML(page_header(about), elem_classes="head")
        session = gr.State(None, time_to_live=KEEP_S, delete_callback=forget)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                file, level, refined, most, every, again = _controls(thresholds.plain, crf is not None)
            with gr.Column(scale=2, min_width=300):
                status, frame, shown = _outputs()
        controls = (file, level, refined, most, every, again)
        _connect(page, session, controls, (status, frame, shown), thresholds)
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
    hint = "Moves outlines to them, as `backdrop predict` does. Takes some seconds per image."
    hint = hint if crf else "Not known here how: start the page in the model's project, or with --params FILE."
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
    mask = gr.Image(label="Mask", height=230, **still)
    values = gr.HTML("", elem_classes="numbers", padding=False)
    with gr.Row():
        png = gr.DownloadButton("Download the mask (PNG)", visible=False)
        cut = gr.DownloadButton("Download the cut-out (PNG)", visible=False)
        archive = gr.DownloadButton("Download the masks (zip of PNGs)", visible=False)
        movie = gr.DownloadButton("Download the video (MP4)", visible=False)
    with gr.Accordion("Where the model looked", open=False):
        cells = gr.Image(label="The detector's cells", height=300, **still)
        likely = gr.HTML("", elem_classes="numbers", padding=False)
    return status, frame, [image, video, mask, values, cells, likely, png, cut, archive, movie]


def _connect(
    page: Page,
    session: Any,
    controls: tuple[Any, ...],
    outputs: tuple[Any, Any, list[Any]],
    thresholds: ChosenThresholds,
) -> None:
    import gradio as gr

    file, level, refined, most, every, again = controls
    status, frame, shown = outputs
    everything = [session, status, frame, *shown]

    def segment(path, progress=gr.Progress(), *, every, most, threshold, refined, old):  # noqa: ANN001, ANN202, B008
        if path is None:
            raise gr.Error("Drop an image or a video first.", print_exception=False)
        return page.segment(path, Choices(float(threshold), refined, int(every), int(most)), old, progress)

    def redraw(segmented, t, threshold, refined, progress=gr.Progress()):  # noqa: ANN001, ANN202, B008
        return page.redraw(segmented, t, Choices(float(threshold), refined), progress)

    def other_outlines(segmented, t, refined, progress=gr.Progress()):  # noqa: ANN001, ANN202, B008
        return page.other_outlines(segmented, t, refined, thresholds, progress)

    def another_frame(segmented, t, threshold, refined):  # noqa: ANN001, ANN202
        return page.show(segmented, t, Choices(float(threshold), refined))

    def cleared(segmented):  # noqa: ANN001, ANN202
        forget(segmented)
        return [None, EMPTY, gr.Slider(visible=False), gr.Image(None, visible=True), gr.Video(None, visible=False),
                None, "", None, "", gr.DownloadButton(visible=False), gr.DownloadButton(visible=False),
                gr.DownloadButton(visible=False), gr.DownloadButton(visible=False)]  # fmt: skip

    # one at a time: pictures of an old file must not come after those of a new one
    one: dict[str, Any] = {"concurrency_id": "one", "concurrency_limit": 1, "show_progress_on": [status]}
    hidden = one | {"api_visibility": "private"}
    asked = {"every": every, "most": most, "threshold": level, "refined": refined, "old": session}
    done = gr.on(
        [file.upload, again.click], segment, [file], everything, inputs_kwargs=asked, api_name="segment", **one
    )
    done.failure(cleared, session, everything, **hidden)
    file.clear(cleared, session, everything, **hidden)
    state = [session, frame, level, refined]
    # "always_last": while one redraw runs, only the last of the changes that follow is drawn
    level.release(redraw, state, shown, trigger_mode="always_last", **hidden)
    refined.input(other_outlines, [session, frame, refined], [level, *shown], trigger_mode="always_last", **hidden)
    frame.release(another_frame, state, shown[2:6], trigger_mode="always_last", **hidden)
