"""A subject that rests: a standing camera, somebody walks in and stands for three quarters of the clip.

    python -m benchmarks.resting                  # one rendered clip of 400 frames, about 30 CPU minutes
    python -m benchmarks.resting --seeds 0 1 2

Each clip is trained on and scored on itself, without its truth, as `benchmarks.sequences` does it. Writes all figures
to benchmarks/resting.json and prints J of all frames that show the subject, and of those in which it walks or stands.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backdrop.render.clip import Clip
from backdrop.render.stage import render_clip
from benchmarks.sequences import RESULTS, run_one

ROOT = Path(__file__).resolve().parent.parent
SIZE, FRAMES = (320, 192), 400

EVERY = 4
"""The student learns from every fourth frame."""

STANDS_FROM = 0.27
"""Share of the clip after which the subject stands (`Motion`: it slows down at a quarter)."""


def run_clip(seed: int, work: Path) -> dict[str, Any]:
    """Render a clip, run the stages on it, and read its scores.

    Returns:
        seed, cpu_minutes, and the J of `phases`.
    """
    name, footage = f"rests_{seed:02d}", work / "footage"
    clip = Clip(seed, "static", SIZE, FRAMES, subject=3 * seed, town=seed, rests=True)
    render_clip(footage, "train", name, clip)
    changes = [f"student.every={EVERY}"]
    result = run_one("synthetic", str(footage), name, work / name, scale="sequence", overrides=changes)
    shown = np.array([clip.mask(t).any() for t in range(FRAMES)])
    scored = pd.read_csv(work / name / "metrics" / "per_frame.csv")
    return {"seed": seed, "cpu_minutes": result["cpu_minutes"], "J": phases(scored, shown)}


def phases(scored: pd.DataFrame, shown: np.ndarray) -> dict[str, dict[str, float]]:
    """Mean J of each method over the frames that show the subject, in which it walks, stands, and that do not show it.

    Args:
        scored: a row per frame and result: result, frame, J.
        shown: per frame, whether it shows the subject.
    """
    number = np.arange(len(shown))
    stands = number >= len(shown) * STANDS_FROM
    kinds = {"subject shows": shown, "walks": shown & ~stands, "stands": shown & stands, "not there": ~shown}
    found = {}
    for result in RESULTS:
        mine = scored[scored["result"] == result].set_index("frame")["J"].reindex(number).to_numpy()
        found[result] = {kind: float(np.nanmean(mine[frames])) for kind, frames in kinds.items()}
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a method, J by phase, the mean over clips."""
    kinds = list(rows[0]["J"][RESULTS[0]])
    lines = ["| J | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for result in RESULTS:
        means = (np.mean([row["J"][result][kind] for row in rows]) for kind in kinds)
        lines.append(f"| {result} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    minutes = np.mean([row["cpu_minutes"] for row in rows])
    return "\n".join([*lines, f"\n{len(rows)} clips, {minutes:.0f} CPU minutes each."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "resting")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "resting.json")
    args = parser.parse_args()
    rows = [run_clip(seed, args.work.resolve()) for seed in args.seeds]
    args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
