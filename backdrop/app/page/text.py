"""The page's words, style and numbers."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np

from backdrop.app.page.segmented import Found, SegmentedFile
from backdrop.app.records import inner_box
from backdrop.errors import BackdropError
from backdrop.io.files import show
from backdrop.io.masks import Mask

MEANINGS = {
    "Presence": "how sure the model is that a subject is there at all, 0 to 1",
    "Box": "drawn in red; counted from the left and the top edge",
    "Cell probability": "the detector's, of its most likely grid cell; all cells together have 1",
    "Mask": "how much of the image is above the threshold",
}

PAGE_HEADER = """<h1>Backdrop</h1>
<p class="lead">Drop a photo or a short video, and Backdrop finds its main subject and cuts it out.</p>
<p class="local">Everything stays on this machine: files are read and segmented here, sent nowhere, and deleted when the
program ends.</p>"""

EMPTY = '<p class="status">Nothing segmented yet: drop a file.</p>'

PAGE_CSS = """
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


def numbers_html(found: Found, mask: Mask) -> str:
    values = numbers(found, mask)
    top = found.prediction.mask.max()
    empty = "" if mask.any() else f"<p>The mask is empty. Its surest pixel has {top:.2f}: lower the threshold.</p>"
    rows = (f"<div><dt>{k}</dt><dd>{v}<small>{MEANINGS[k]}</small></dd></div>" for k, v in values.items())
    return f"{empty}<dl>{''.join(rows)}</dl>"


def status_line(footage: SegmentedFile) -> str:
    name, count = html.escape(footage.source.path.name), len(footage.frames)
    if not footage.source.video:
        height, width = footage.frames[0].frame.image.shape[:2]
        return f'<p class="status"><b>{name}</b>, {width} × {height} pixels</p>'
    more = " The video goes on; take more frames, or fewer of them, under “Videos”." if footage.cut else ""
    return f'<p class="status"><b>{name}</b>, {count} frame{"s" * (count != 1)} segmented.{more}</p>'


def message(fault: BackdropError, path: Path) -> str:
    """A fault's text with the file's name in place of its path, which is a temporary one that no person knows."""
    return str(fault).replace(show(path), show(path.name))
