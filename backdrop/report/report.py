"""One HTML file that tells a person who was not there how well it went: scores, pictures, curves, parameters.

It needs no network and no other file: styles, charts and pictures are in it. Videos without ground truth have no
scores. Their report shows frames spread over each sequence, how often there is a mask, and how large it is.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from backdrop.config.reading import load_yaml
from backdrop.draw import TINT, TRUTH, draw_mask, frame_sheet
from backdrop.io.files import atomic_path, sweep
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import encode_jpeg, encode_png, resize
from backdrop.io.index import read_videos
from backdrop.io.masks import MaskArchive, resize_mask, split_truth
from backdrop.report.charts import score_bars, training_curves
from backdrop.report.scores import j_mean, margin, read_scores, score_cards, score_rows, verdict
from backdrop.video.streamed import open_frames

SHOWN = 2
"""How many of the best frames, and of the worst frames, are shown per sequence."""

SHEET = 20
"""How many sequences `frames.png` shows, the first ones: hundreds would need too much memory and be too many to see."""

WIDTH = 480
"""Of an overlay, in pixels."""

TINTS = (TINT, (235, 40, 230), (40, 150, 255))
"""Orange, magenta, blue. Green is the truth's."""

UNSCORED = (
    "No frame has ground truth, so nothing is scored: look at the pictures. Where you can draw the masks of twenty "
    "frames, put them beside the footage (masks/<video>/<frame>.png), and the next run prints scores."
)


def write_report(project: Path, path: Path, pictures: Path | None = None) -> Path:
    """Write the report of a project's last scored run.

    Args:
        project: the repository's root, with metrics/ and, for overlays, data/. path: the HTML file.
        pictures: a folder for what DVC shows as plots: the bars (`J.svg`, where frames were scored) and frames of up
            to `SHEET` sequences (`frames.png`, where data/ holds them).

    Raises:
        BackdropError: the stage score has not run, or a file cannot be written.
    """
    scores = read_scores(project)
    scored = bool(scores["frames_scored"])
    table = pd.read_csv(project / "metrics" / "per_sequence.csv")
    frames = pd.read_csv(project / "metrics" / "per_frame.csv", dtype={"name": str})
    shipped = dict(list(frames[frames["result"] == "method"].groupby("sequence")))
    names = _names(project, table)
    sheet: dict[str, list[Shown]] = {}

    def sequences() -> Iterator[dict[str, Any]]:
        """Sequences are made as they are written, so that their pictures are not in memory together."""
        for name in names:
            shown = list(_report_pictures(project, name, shipped.get(name, frames.iloc[:0])))
            if shown and len(sheet) < SHEET:
                sheet[name] = shown
            yield _sequence(project, name, table, shown)

    chart = score_bars(table) if scored else ""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("backdrop.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.jinja").stream(
        title=_title(scores, len(names)),
        when=datetime.fromtimestamp((project / "metrics" / "scores.json").stat().st_mtime).strftime("%Y-%m-%d %H:%M"),
        origin=_origin(project),
        scored=scored,
        verdict=verdict(scores, table) if scored else UNSCORED,
        cards=score_cards(scores) if scored else [],
        scores=score_rows(scores),
        chart=chart,
        sequences=sequences(),
        curves=training_curves(project),
        outside=", ".join(_outside(project / "params.yaml")),
        params=_text(project / "params.yaml"),
        provenance=_text(project / "metrics" / "provenance.json"),
    )
    sweep(path)
    with atomic_path(path) as temporary:
        page.dump(str(temporary), encoding="utf-8")
    if pictures is not None:
        _write_plots(pictures, chart, sheet)
    return path


def _outside(params: Path) -> list[str]:
    """The models from outside that took part, as params.yaml names them."""
    known = load_yaml(params) if params.is_file() else None
    if not isinstance(known, dict):
        return []
    encoder = known.get("encoder", {})
    named = {"student.prior": known.get("student", {}).get("prior")}
    named |= {f"encoder.{key}": encoder.get(key) for key in ("weights", "perceptual")}
    return [f"{key}: {value}" for key, value in named.items() if value not in (None, "none")]


def _write_plots(folder: Path, chart: str, sheet: Mapping[str, list[Shown]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if chart:
        with atomic_path(folder / "J.svg") as temporary:
            temporary.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{chart}', encoding="utf-8")
    rows = {name: [(one.caption, one.picture) for one in found] for name, found in sheet.items()}
    if rows:
        with atomic_path(folder / "frames.png") as temporary:
            temporary.write_bytes(encode_png(frame_sheet(rows)))


def _title(scores: Mapping[str, Any], sequences: int) -> str:
    count = int(scores["sequences"]) if scores["frames_scored"] else sequences
    name = f"Backdrop: {count} sequence{'s' * (count != 1)}"
    if scores["frames_scored"]:
        return f"{name}, {scores['frames_scored']} frames scored"
    return f"{name} without ground truth"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else f"{path.name} is missing"


def _origin(project: Path) -> str:
    path = project / "metrics" / "provenance.json"
    if not path.is_file():
        return ""
    known = json.loads(path.read_text(encoding="utf-8"))
    dirty = " with uncommitted changes" if known.get("git_dirty") else ""
    return f"revision {str(known.get('git_revision'))[:8]}{dirty}, seed {known.get('seed')}, {known.get('device')}"


def _names(project: Path, table: pd.DataFrame) -> list[str]:
    """The scored sequences; where none is, those that have masks."""
    if len(table):
        return list(dict.fromkeys(table["sequence"]))
    frames, masks = project / "data" / "frames", project / "data" / "masks"
    if not frames.is_dir():
        return []
    return [name for name in read_videos(frames, usable=True)["sequence"] if (masks / f"{name}.zip").is_file()]


def _embedded(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


class Shown(NamedTuple):
    """A frame with its mask drawn in."""

    caption: str
    picture: np.ndarray


def _sequence(project: Path, name: str, table: pd.DataFrame, shown: list[Shown]) -> dict[str, Any]:
    j = j_mean(table, name, "method")
    sheet = project / "metrics" / "plots" / f"{name}.png"
    return {
        "name": name,
        "fact": _facts(project, name) if j is None else f"J {j:.2f}",
        "margin": margin(table, name),
        "frames": [
            {"source": _embedded(encode_jpeg(one.picture, 80), "jpeg"), "caption": one.caption} for one in shown
        ],
        "sheet": _sheet(sheet) if sheet.is_file() else None,
    }


def _facts(project: Path, name: str) -> str:
    """What is known without truth: in how many frames there is a mask, and how large it is there."""
    path = project / "data" / "masks" / f"{name}.zip"
    if not path.is_file():
        return "no masks"
    found = MaskArchive(path)
    areas = np.array([float((found.gray(t) > 127).mean()) for t in range(len(found)) if found.has(t)])
    filled = areas[areas > 0]
    if not filled.size:
        return f"no mask in any of {areas.size} frames"
    return f"a mask in {filled.size} of {areas.size} frames, {np.median(filled):.1%} of the image at the median"


def _sheet(path: Path) -> str:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "JPEG", quality=80)
    return _embedded(buffer.getvalue(), "jpeg")


def _report_pictures(project: Path, name: str, scored: pd.DataFrame) -> Iterator[Shown]:
    """The best and the worst frames with mask and truth drawn in; without truth frames spread over the sequence.

    Nothing comes where data/ does not hold them.

    Args:
        scored: the sequence's rows of per_frame.csv, of what ships.
    """
    stored, masks = (project / "data" / folder / f"{name}.zip" for folder in ("frames", "masks"))
    if not (stored.is_file() and masks.is_file()):
        return
    scored = scored.sort_values("J", kind="stable")
    archive, found = open_frames(stored), MaskArchive(masks)
    shown = archive.pictured()
    spread = [shown[int(k)] for k in np.linspace(0, len(shown) - 1, 2 * SHOWN + 2).round()[1:-1]]
    chosen = [*scored["frame"].iloc[-SHOWN:][::-1], *scored["frame"].iloc[:SHOWN]] if len(scored) else spread
    scores = dict(zip(scored["frame"], scored["J"], strict=True))
    for k, t in enumerate(dict.fromkeys(int(t) for t in chosen)):
        if found.has(t):
            rank = "best" if k < SHOWN else "worst"
            caption = (
                f"{rank}: frame {archive.names[t]}, J {scores[t]:.2f}" if t in scores else f"frame {archive.names[t]}"
            )
            yield Shown(caption, _compared(archive, found, t))


def _tint(image: np.ndarray, mask: np.ndarray) -> tuple[int, int, int]:
    """Of `TINTS` the one most unlike what the mask covers. image: (H, W, 3) RGB; mask: (H, W) bool, may be empty."""
    if not mask.any():
        return TINT
    usual = np.median(image[mask], axis=0)
    return max(TINTS, key=lambda color: float(np.linalg.norm(np.array(color) - usual)))


def _compared(archive: FrameArchive, masks: MaskArchive, t: int) -> np.ndarray:
    """The frame with the mask tinted, and the outline of the truth."""
    image = archive.picture(t)
    picture = resize(image, (WIDTH, max(1, round(WIDTH * image.shape[0] / image.shape[1]))))
    mask = masks.gray(t) > 127
    picture = draw_mask(picture, mask, _tint(image, resize_mask(mask, image.shape[1::-1])))
    truth = archive.mask(t)
    return picture if truth is None else draw_mask(picture, split_truth(truth)[0], TRUTH, 0.0)
