"""One HTML file that tells a person who was not there how well it went: scores, pictures, curves, parameters.

It needs no network and no other file: styles, charts and pictures are in it. Footage without ground truth has no
scores; its report shows frames spread over each sequence, and how often and how large a mask is.
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
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from backdrop.draw import TINT, TRUTH, draw_mask, frame_sheet
from backdrop.errors import BackdropError
from backdrop.io.files import atomic_path, show, sweep
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import encode_jpeg, encode_png, resize
from backdrop.io.index import read_index
from backdrop.io.masks import MaskArchive, split_truth

NAMES = {
    "method": "Backdrop, what ships",
    "method_raw": "the same before the CRF",
    "method_best_threshold": "before the CRF, oracle threshold",
    "method_paper": "detector and synthesis alone",
    "method_paper_raw": "the same before the CRF",
    "flow_threshold": "baseline: thresholded flow",
    "mog2": "baseline: MOG2",
}

REPORT_COLUMNS = ("J_mean", "F_mean", "precision", "recall", "mAP50", "centre_hit", "threshold")

BASELINES = ("flow_threshold", "mog2")

SHOWN = 2
"""Best and worst frames shown of a sequence, each so many."""

SHEET = 20
"""Sequences in `frames.png`, the first so many: a picture of hundreds can be neither held nor looked at."""

WIDTH = 480
"""Of an overlay in pixels."""

UNSCORED = (
    "No frame has ground truth, so nothing is scored: look at the pictures. Where you can draw the masks of twenty "
    "frames, put them beside the footage (masks/<video>/<frame>.png), and the next run prints scores."
)

CHART_COLORS = {"method": "#e8890c", "flow_threshold": "#7d8fb3", "mog2": "#7aa88c"}

CURVES = (
    ("losses", {"loss/bg": "L_bg", "loss/bg_flow": "L_bg, flow", "loss/fg": "L_fg", "loss/fg_flow": "L_fg, flow"}),
    ("probabilities of cells", {"p/max": "largest p", "p/entropy": "entropy of p"}),
    ("boxes and masks, shares of the image", {"box/width": "width", "box/height": "height", "mask/area": "mask"}),
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
    scores = _scores(project)
    scored = bool(scores["frames_scored"])
    table = pd.read_csv(project / "metrics" / "per_sequence.csv")
    frames = pd.read_csv(project / "metrics" / "per_frame.csv", dtype={"name": str})
    own = dict(list(frames[frames["result"] == "method"].groupby("sequence")))
    names = _names(project, table)
    sheet: dict[str, list[Shown]] = {}

    def sequences() -> Iterator[dict[str, Any]]:
        """Made as they are written: their pictures are not held together."""
        for name in names:
            shown = list(_report_pictures(project, name, own.get(name, frames.iloc[:0])))
            if shown and len(sheet) < SHEET:
                sheet[name] = shown
            yield _sequence(project, name, table, shown)

    chart = _bars(table) if scored else ""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("backdrop.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.jinja").stream(
        title=_title(scores, len(names)),
        when=datetime.fromtimestamp((project / "metrics" / "scores.json").stat().st_mtime).strftime("%Y-%m-%d %H:%M"),
        origin=_origin(project),
        scored=scored,
        verdict=verdict(scores, table) if scored else UNSCORED,
        cards=_cards(scores) if scored else [],
        scores=_rows(scores),
        chart=chart,
        sequences=sequences(),
        curves=_curves(project),
        params=_text(project / "params.yaml"),
        provenance=_text(project / "metrics" / "provenance.json"),
    )
    sweep(path)
    with atomic_path(path) as temporary:
        page.dump(str(temporary), encoding="utf-8")
    if pictures is not None:
        _write_plots(pictures, chart, sheet)
    return path


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


def _scores(project: Path) -> dict[str, Any]:
    path = project / "metrics" / "scores.json"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        return scores | {"frames_scored": int(scores["frames_scored"])}
    except FileNotFoundError:
        raise BackdropError(f"{show(path)} does not exist: run `dvc repro`, or name the project's folder") from None
    except (ValueError, KeyError, TypeError) as fault:
        raise BackdropError(f"{show(path)} holds no scores ({fault}): run the stage score again") from fault


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
    return [name for name in read_index(frames, usable=True)["sequence"] if (masks / f"{name}.zip").is_file()]


def _result(scores: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return scores.get(name) or scores.get("baselines", {}).get(name)


def _of(table: pd.DataFrame, sequence: str, result: str) -> float | None:
    values = table.loc[(table["sequence"] == sequence) & (table["result"] == result), "J_mean"]
    return float(values.iloc[0]) if len(values) else None


def margin(table: pd.DataFrame, sequence: str) -> float | None:
    """J of what ships less that of the better baseline; None where one is missing."""
    own = _of(table, sequence, "method")
    others = [value for name in BASELINES if (value := _of(table, sequence, name)) is not None]
    return None if own is None or not others else own - max(others)


def verdict(scores: Mapping[str, Any], table: pd.DataFrame) -> str:
    """One sentence for who reads no table."""
    names = dict.fromkeys(table["sequence"])
    margins = [value for name in names if (value := margin(table, name)) is not None]
    better = sum(value > 0 for value in margins)
    own = scores["method"]
    start = f"On average {own['J_mean']:.0%} of the union of mask and truth is common to both (J {own['J_mean']:.2f}). "
    if not margins:
        return start + "There is no baseline to compare with."
    of = f"{len(margins)} sequence{'s' * (len(margins) != 1)}"
    return f"{start}Both baselines, which need no training, are beaten on {better} of {of}."


def _cards(scores: Mapping[str, Any]) -> list[dict[str, str]]:
    own = scores["method"]
    cards = [
        {"value": f"{own['J_mean']:.2f}", "name": "J", "note": "overlap of masks"},
        {"value": f"{own['F_mean']:.2f}", "name": "F", "note": "agreement of outlines"},
    ]
    for key, name, note in (("mAP50", "box mAP 0.5", "boxes"), ("centre_hit", "center hit", "boxes on the subject")):
        if own.get(key) is not None:
            cards.append({"value": f"{own[key]:.2f}", "name": name, "note": note})
    for name in BASELINES:
        found = _result(scores, name)
        if found:
            cards.append({"value": f"{found['J_mean']:.2f}", "name": "J", "note": NAMES[name]})
    return cards


def _rows(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, label in NAMES.items():
        found = _result(scores, name)
        if found:
            cells = ["" if found.get(key) is None else f"{found[key]:.2f}" for key in REPORT_COLUMNS]
            cells[-1] = f"{cells[-1]} ({str(found.get('threshold_chosen_on')).split(':')[0]})"
            rows.append({"name": label, "cells": cells, "ship": name == "method"})
    return rows


def _embedded(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


class Shown(NamedTuple):
    """A frame with its mask drawn in."""

    caption: str
    picture: np.ndarray


def _sequence(project: Path, name: str, table: pd.DataFrame, shown: list[Shown]) -> dict[str, Any]:
    own = _of(table, name, "method")
    sheet = project / "metrics" / "plots" / f"{name}.png"
    return {
        "name": name,
        "fact": _facts(project, name) if own is None else f"J {own:.2f}",
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


def _report_pictures(project: Path, name: str, own: pd.DataFrame) -> Iterator[Shown]:
    """The best and the worst frames with mask and truth drawn in; without truth frames spread over the sequence.

    None where data/ does not hold them.

    Args:
        own: the sequence's rows of per_frame.csv, of what ships.
    """
    stored, masks = (project / "data" / folder / f"{name}.zip" for folder in ("frames", "masks"))
    if not (stored.is_file() and masks.is_file()):
        return
    own = own.sort_values("J", kind="stable")
    archive, found = FrameArchive(stored), MaskArchive(masks)
    spread = np.linspace(0, len(archive) - 1, 2 * SHOWN + 2).round()[1:-1]
    chosen = [*own["frame"].iloc[-SHOWN:][::-1], *own["frame"].iloc[:SHOWN]] if len(own) else spread
    scores = dict(zip(own["frame"], own["J"], strict=True))
    for t in dict.fromkeys(int(t) for t in chosen):
        if found.has(t):
            caption = f"frame {archive.names[t]}" + (f", J {scores[t]:.2f}" if t in scores else "")
            yield Shown(caption, _compared(archive, found, t))


def _compared(archive: FrameArchive, masks: MaskArchive, t: int) -> np.ndarray:
    """The frame with the mask tinted, and the outline of the truth."""
    image = archive.image(t)
    picture = resize(image, (WIDTH, max(1, round(WIDTH * image.shape[0] / image.shape[1]))))
    picture = draw_mask(picture, masks.gray(t) > 127, TINT)
    truth = archive.mask(t)
    return picture if truth is None else draw_mask(picture, split_truth(truth)[0], TRUTH, 0.0)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "backdrop", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _bars(table: pd.DataFrame) -> str:
    """J by sequence: what ships and the baselines, as SVG."""
    names = list(dict.fromkeys(table["sequence"]))
    shown = [result for result in CHART_COLORS if any(_of(table, name, result) is not None for name in names)]
    figure = Figure(figsize=(8, 1 + 0.5 * len(names)))
    axes = figure.subplots()
    height = 0.8 / len(shown)
    for k, result in enumerate(shown):
        values = [_of(table, name, result) or 0.0 for name in names]
        axes.barh(
            [i + k * height for i in range(len(names))],
            values,
            height * 0.9,
            color=CHART_COLORS[result],
            label=NAMES[result],
        )
    axes.set_yticks([i + 0.8 / 2 - height / 2 for i in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("J")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(shown), frameon=False)
    return _svg(figure)


def _curves(project: Path) -> list[dict[str, str]]:
    folder = project / "metrics" / "train" / "plots" / "metrics"
    made = []
    for title, lines in CURVES:
        drawn = _lines(title, {label: folder / f"{name}.tsv" for name, label in lines.items()}, "iteration")
        if drawn:
            made.append(drawn)
    student = project / "metrics" / "student" / "plots" / "metrics" / "bce.tsv"
    drawn = _lines("self-training: binary cross-entropy", {"binary cross-entropy": student}, "iteration")
    return [*made, drawn] if drawn else made


def _lines(title: str, files: Mapping[str, Path], x: str) -> dict[str, str] | None:
    present = {label: path for label, path in files.items() if path.is_file()}
    if not present:
        return None
    figure = Figure(figsize=(8, 2.6))
    axes = figure.subplots()
    for label, path in present.items():
        curve = pd.read_csv(path, sep="\t")
        axes.plot(curve.iloc[:, 0], curve.iloc[:, 1], label=label, linewidth=1.4)
    axes.set_xlabel(x)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return {"svg": _svg(figure), "caption": title.capitalize()}
