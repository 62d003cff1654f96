"""What the page says: its texts, the numbers of a frame, the status line."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np

from backdrop.app.page.segmented_file import SegmentedFile
from backdrop.app.reader import Found
from backdrop.app.records import inner_box
from backdrop.errors import BackdropError
from backdrop.io.files import show
from backdrop.io.masks import Mask

MEANINGS = {
    "Presence": "how sure the model is that a subject is there at all, 0 to 1",
    "Box": "drawn in red; counted from the left and the top edge",
    "Mask": "how much of the image is above the threshold",
}

PAGE_HEADER = """<h1>Backdrop</h1>
<p class="lead">Drop a photo or a short video, and Backdrop finds its main subject and cuts it out.</p>
<p class="local">Everything stays on this machine: files are read and segmented here, sent nowhere, and deleted when the
program ends.</p>"""


def page_header(about: str) -> str:
    """The page's first lines, as HTML. about: what the model was trained on; "": it is not known."""
    return PAGE_HEADER + (f'\n<p class="local">The model was {html.escape(about)}.</p>' if about else "")


EMPTY = '<p class="status">Nothing segmented yet: drop a file.</p>'


def numbers(found: Found, mask: Mask) -> dict[str, str]:
    """What is known of a frame, as text: the keys of `MEANINGS`. mask: (H, W) bool, True = foreground."""
    box = inner_box(found.prediction.box, (mask.shape[1], mask.shape[0]))
    left, top, width, height = (round(value) for value in box)
    return {
        "Presence": f"{found.prediction.presence:.2f}",
        "Box": f"{width} × {height} px at ({left}, {top})",
        "Mask": f"{mask.mean():.1%} of the image",
    }


def numbers_html(found: Found, mask: Mask) -> str:
    """`numbers` with their meanings, as HTML."""
    values = numbers(found, mask)
    top = found.prediction.mask.max()
    empty = "" if mask.any() else f"<p>The mask is empty. Its surest pixel has {top:.2f}: lower the threshold.</p>"
    rows = (f"<div><dt>{k}</dt><dd>{v}<small>{MEANINGS[k]}</small></dd></div>" for k, v in values.items())
    return f"{empty}<dl>{''.join(rows)}</dl>"


def cells_html(found: Found) -> str:
    """What the detector says of a frame, as HTML."""
    row, column = np.unravel_index(found.prediction.cell, found.prediction.p.shape)
    rows, columns = found.prediction.p.shape
    return (
        f"<p>The model divides the image into {rows} × {columns} cells, and guesses in which one the subject is. "
        f"The larger a dot, the likelier its cell. The likeliest is row {row + 1}, column {column + 1}, with a "
        f"probability of {found.prediction.p.max():.2f} (all cells together have 1). A line leads from it to the "
        "middle of the box.</p>"
    )


def status_line(segmented: SegmentedFile) -> str:
    """What was segmented, as HTML."""
    name, count = html.escape(segmented.source.path.name), len(segmented.frames)
    if not segmented.source.video:
        height, width = segmented.frames[0].frame.image.shape[:2]
        return f'<p class="status"><b>{name}</b>, {width} × {height} pixels</p>'
    more = " The video goes on; take more frames, or fewer of them, under “Videos”." if segmented.cut else ""
    fault = f" The file is damaged: {html.escape(segmented.fault)}." if segmented.fault else ""
    return f'<p class="status"><b>{name}</b>, {count} frame{"s" * (count != 1)} segmented.{fault}{more}</p>'


def message(fault: BackdropError, path: Path) -> str:
    """A fault's text with the file's name in place of its path: the path is a temporary one that nobody knows."""
    return str(fault).replace(show(path), show(path.name))
