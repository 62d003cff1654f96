"""The charts on the report's page, as SVG: scores by sequence, and curves of the training."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from backdrop.report.scores import NAMES, j_mean

CHART_COLORS = {"method": "#e8890c", "flow_threshold": "#7d8fb3", "mog2": "#7aa88c"}

CURVES = (
    (
        "Losses: training makes them small. L_bg is below 0, the farther, the worse background alone explains what the "
        "detector looks at. L_fg is the nearer to 0, the better background and subject together do. Flow: of motion.",
        {"loss/bg": "L_bg", "loss/bg_flow": "L_bg, flow", "loss/fg": "L_fg", "loss/fg_flow": "L_fg, flow"},
    ),
    (
        "The detector divides a picture into cells, each with a probability p that the subject is there. If the "
        "largest p is near 1 and the entropy near 0, it is sure of one cell. If the entropy stays as it "
        "began, it learned nothing.",
        {"p/max": "largest p", "p/entropy": "entropy of p"},
    ),
    (
        "Width and height of boxes, and area of masks, as shares of the picture. They should settle at the subject's, "
        "not at 0 or 1.",
        {"box/width": "width", "box/height": "height", "mask/area": "mask"},
    ),
    (
        "Share of masks that cover less of their part of the picture than the parameter lambda asks for.",
        {"mask/below": "masks below lambda"},
    ),
)
"""A chart each: its caption, and the logged values with their labels."""

STUDENT_CURVE = (
    "How far the masks of the model that you keep (the student) are from those that it learns from. It should fall; "
    "where a round begins, it may jump, as the masks to learn from are made anew."
)

WIDTH_INCHES = 5
"""Of a chart: so narrow that a phone shrinks its letters little."""


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element; the same figure gives the same text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "backdrop", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def score_bars(table: pd.DataFrame) -> str:
    """J by sequence, of what ships and of the baselines, as an <svg> element."""
    names = list(dict.fromkeys(table["sequence"]))
    shown = [result for result in CHART_COLORS if any(j_mean(table, name, result) is not None for name in names)]
    figure = Figure(figsize=(WIDTH_INCHES, 1 + 0.6 * len(names)))
    axes = figure.subplots()
    height = 0.8 / len(shown)
    for k, result in enumerate(shown):
        values = [j_mean(table, name, result) or 0.0 for name in names]
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
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return _svg(figure)


def training_curves(project: Path) -> list[dict[str, str]]:
    """The curves that the training logged, as charts: svg and caption of each. What is missing is left out."""
    folder = project / "metrics" / "train" / "plots" / "metrics"
    charts = []
    for caption, lines in CURVES:
        drawn = _line_chart(caption, {label: folder / f"{name}.tsv" for name, label in lines.items()})
        if drawn:
            charts.append(drawn)
    student = project / "metrics" / "student" / "plots" / "metrics" / "bce.tsv"
    drawn = _line_chart(STUDENT_CURVE, {"binary cross-entropy": student})
    return [*charts, drawn] if drawn else charts


def _line_chart(caption: str, files: Mapping[str, Path]) -> dict[str, str] | None:
    """Curves over iterations in one chart; None where no file is there."""
    present = {label: path for label, path in files.items() if path.is_file()}
    if not present:
        return None
    figure = Figure(figsize=(WIDTH_INCHES, 2.8))
    axes = figure.subplots()
    for label, path in present.items():
        curve = pd.read_csv(path, sep="\t")
        axes.plot(curve.iloc[:, 0], curve.iloc[:, 1], label=label, linewidth=1.4)
    axes.set_xlabel("iteration")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return {"svg": _svg(figure), "caption": caption}
