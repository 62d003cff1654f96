"""How well `Prediction.presence` tells frames with the subject from frames without: average precision.

    python -m benchmarks.presence                     # models/segmenter, the embedded footage's test subjects
    python -m benchmarks.presence --split val --every 5

Renders the clips of the embedded footage once more, with the subject out of view for a part of each, and segments every
n-th frame by itself. Frames in which no more than a trace of the subject shows count for neither. Writes what it finds
to standard output and benchmarks/presence.json. No frame of these clips is trained
on, and the footage's training has no empty frame.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torchmetrics.functional.classification import binary_average_precision

from backdrop.app.segmenter import Segmenter
from backdrop.motion.blobs import SPECK
from backdrop.params import read
from backdrop.render.clip import Clip
from backdrop.render.parameters import FootageParams
from backdrop.render.stage import Plan, plan_clips

ROOT = Path(__file__).resolve().parent.parent
LEAST = 4 * SPECK
"""Share of the image that a subject which counts as present fills at least."""


def clips(params: FootageParams, split: str) -> list[tuple[str, Clip]]:
    """The clips of a split, with the subject out of view at their beginning or end."""
    size = (params.size[0], params.size[1])
    plans = [plan for plan in plan_clips(params) if plan.split == split]  # type: ignore[arg-type] # Literals

    def clip(p: Plan) -> Clip:
        return Clip(
            p.seed,
            p.mode,
            size,
            params.frames,
            fps=params.fps,
            subject=p.subject,
            town=params.seed,
            stretch=p.stretch,
            presence=True,
        )

    return [(p.name, clip(p)) for p in plans]


def measure(segmenter: Segmenter, params: FootageParams, split: str, every: int) -> list[dict[str, object]]:
    """A row per frame: clip, frame, share of the image that the subject fills, presence, largest cell probability."""
    rows: list[dict[str, object]] = []
    for name, clip in clips(params, split):
        for t in range(0, len(clip), every):
            share = float(clip.mask(t).mean())
            if 0 < share < LEAST:
                continue
            found = segmenter.predict(clip.frame(t))
            rows.append(
                {"clip": name, "frame": t, "share": share, "presence": found.presence, "p": float(found.p.max())}
            )
    return rows


def average_precision(rows: list[dict[str, object]], key: str) -> float:
    """Of the frames ranked by `key`, against whether the subject shows."""
    values = torch.tensor([float(row[key]) for row in rows])  # type: ignore[arg-type]
    return float(binary_average_precision(values, torch.tensor([int(row["share"] != 0) for row in rows])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "segmenter")
    parser.add_argument("--split", choices=["train", "val", "test"], default="test")
    parser.add_argument("--every", type=int, default=2, help="every n-th frame")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "presence.json")
    args = parser.parse_args()
    rows = measure(Segmenter.load(args.model), read(ROOT / "params.yaml").footage, args.split, args.every)
    shown = [row for row in rows if row["share"]]
    empty = [row for row in rows if not row["share"]]
    result = {
        "split": args.split,
        "frames": len(rows),
        "share_with_subject": len(shown) / len(rows),
        "average_precision": {key: average_precision(rows, key) for key in ("presence", "p")},
        "presence_with_subject": np.percentile([row["presence"] for row in shown], [5, 50, 95]).tolist(),
        "presence_without": np.percentile([row["presence"] for row in empty], [5, 50, 95]).tolist(),
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
