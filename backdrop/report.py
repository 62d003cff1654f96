"""One HTML file that tells a person who was not there how well it went: scores, pictures, curves, parameters.

It needs no network and no other file: styles, charts and pictures are in it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from backdrop.errors import BackdropError
from backdrop.masks import MaskArchive, split_truth
from backdrop.overlay import TINT, TRUTH, draw_mask
from backdrop.video import FrameArchive, atomic_path, encode_jpeg, resize, show

NAMES = {
    "method": "Backdrop, what ships",
    "method_raw": "the same before the CRF",
    "method_best_threshold": "before the CRF, oracle threshold",
    "method_paper": "detector and synthesis alone",
    "method_paper_raw": "the same before the CRF",
    "flow_threshold": "baseline: thresholded flow",
    "mog2": "baseline: MOG2",
}
COLUMNS = ("J_mean", "F_mean", "precision", "recall", "mAP50", "centre_hit", "threshold")
BASELINES = ("flow_threshold", "mog2")
SHOWN = 2
"""Best and worst frames shown of a sequence, each so many."""
WIDTH = 480
"""Of an overlay in pixels."""
COLORS = {"method": "#e8890c", "flow_threshold": "#7d8fb3", "mog2": "#7aa88c"}
CURVES = (
    ("losses", {"loss/bg": "L_bg", "loss/bg_flow": "L_bg, flow", "loss/fg": "L_fg", "loss/fg_flow": "L_fg, flow"}),
    ("probabilities of cells", {"p/max": "largest p", "p/entropy": "entropy of p"}),
    ("boxes and masks, shares of the image", {"box/width": "width", "box/height": "height", "mask/area": "mask"}),
)


def write_report(project: Path, path: Path) -> Path:
    """Write the report of a project's last scored run.

    Args:
        project: the repository's root, with metrics/ and, for overlays, data/. path: the HTML file.

    Raises:
        BackdropError: nothing has been scored, or the file cannot be written.
    """
    scores = _scores(project)
    table = pd.read_csv(project / "metrics" / "per_sequence.csv")
    frames = pd.read_csv(project / "metrics" / "per_frame.csv", dtype={"name": str})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("backdrop", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    html = environment.get_template("report.html.jinja").render(
        title=f"Backdrop: {scores['sequences']} sequences, {scores['frames_scored']} frames scored",
        when=datetime.now().strftime("%Y-%m-%d %H:%M"),
        origin=_origin(project),
        verdict=verdict(scores, table),
        cards=_cards(scores),
        scores=_rows(scores),
        chart=_bars(table),
        sequences=[_sequence(project, name, table, frames) for name in _names(table)],
        curves=_curves(project),
        params=_text(project / "params.yaml"),
        provenance=_text(project / "metrics" / "provenance.json"),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _scores(project: Path) -> dict[str, Any]:
    path = project / "metrics" / "scores.json"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        if not scores["frames_scored"]:
            raise BackdropError(f"{show(path)}: no frame was scored; the footage has no ground truth")
    except FileNotFoundError:
        raise BackdropError(f"{show(path)} does not exist: run `dvc repro`, or name the project's folder") from None
    except (ValueError, KeyError, TypeError) as fault:
        raise BackdropError(f"{show(path)} holds no scores ({fault}): run the stage score again") from fault
    return scores


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else f"{path.name} is missing"


def _origin(project: Path) -> str:
    path = project / "metrics" / "provenance.json"
    if not path.is_file():
        return ""
    known = json.loads(path.read_text(encoding="utf-8"))
    dirty = " with uncommitted changes" if known.get("git_dirty") else ""
    return f"revision {str(known.get('git_revision'))[:8]}{dirty}, seed {known.get('seed')}, {known.get('device')}"


def _names(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["sequence"]))


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
    margins = [value for name in _names(table) if (value := margin(table, name)) is not None]
    better = sum(value > 0 for value in margins)
    own = scores["method"]
    start = f"On average {own['J_mean']:.0%} of the union of mask and truth is common to both (J {own['J_mean']:.2f}). "
    if not margins:
        return start + "There is no baseline to compare with."
    return start + f"Both baselines, which need no training, are beaten on {better} of {len(margins)} sequences."


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
            cells = ["" if found.get(key) is None else f"{found[key]:.2f}" for key in COLUMNS]
            cells[-1] = f"{cells[-1]} ({str(found.get('threshold_chosen_on')).split(':')[0]})"
            rows.append({"name": label, "cells": cells, "ship": name == "method"})
    return rows


# Pictures ---------------------------------------------------------------------------------------------


def _embedded(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _sequence(project: Path, name: str, table: pd.DataFrame, frames: pd.DataFrame) -> dict[str, Any]:
    own = _of(table, name, "method")
    sheet = project / "metrics" / "plots" / f"{name}.png"
    return {
        "name": name,
        "j": "–" if own is None else f"{own:.2f}",
        "margin": margin(table, name),
        "frames": _extremes(project, name, frames),
        "sheet": _sheet(sheet) if sheet.is_file() else None,
    }


def _sheet(path: Path) -> str:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "JPEG", quality=80)
    return _embedded(buffer.getvalue(), "jpeg")


def _extremes(project: Path, name: str, frames: pd.DataFrame) -> list[dict[str, str]]:
    """The best and the worst frames with mask and truth drawn in; none where data/ does not hold them."""
    stored, masks = (project / "data" / folder / f"{name}.zip" for folder in ("frames", "masks"))
    if not (stored.is_file() and masks.is_file()):
        return []
    own = frames[(frames["sequence"] == name) & (frames["result"] == "method")].sort_values("J", kind="stable")
    chosen = dict.fromkeys([*own["frame"].iloc[-SHOWN:][::-1], *own["frame"].iloc[:SHOWN]])
    scores = dict(zip(own["frame"], own["J"], strict=True))
    archive, found = FrameArchive(stored), MaskArchive(masks)
    pictures = []
    for t in chosen:
        if not found.has(int(t)):
            continue
        picture = _compared(archive, found, int(t))
        caption = f"frame {archive.names[int(t)]}, J {scores[t]:.2f}"
        pictures.append({"source": _embedded(encode_jpeg(picture, 80), "jpeg"), "caption": caption})
    return pictures


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
    names = _names(table)
    shown = [result for result in COLORS if any(_of(table, name, result) is not None for name in names)]
    figure = Figure(figsize=(8, 1 + 0.5 * len(names)))
    axes = figure.subplots()
    height = 0.8 / len(shown)
    for k, result in enumerate(shown):
        values = [_of(table, name, result) or 0.0 for name in names]
        axes.barh(
            [i + k * height for i in range(len(names))], values, height * 0.9, color=COLORS[result], label=NAMES[result]
        )
    axes.set_yticks([i + 0.8 / 2 - height / 2 for i in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("J")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(shown), frameon=False, bbox_to_anchor=(0.5, 1.0))
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
