"""What a few labels are worth: J against the number of labeled frames, as boxes and as masks.

    python -m benchmarks.labels davis2016 /path/to/DAVIS2016-train --only dog-agility tennis surf
    python -m benchmarks.labels davis2016 /path/to/DAVIS2016-train --only tennis --frames 0 3 --kinds masks

Each sequence is trained on without labels, as `benchmarks.sequences` does it. Then the student and what follows run
again with labels that are read off the truth, for each number of frames and each kind; what comes before the student is
shared. Labeled frames are those that `backdrop review` names in the run without labels (--spread: evenly spread ones).
J is the mean over the frames that no row labels. What is done is not run again. Prints a table and writes all figures
to benchmarks/labels.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import yaml
from PIL import Image

from backdrop.app.review.choice import candidates, choose
from backdrop.errors import BackdropError
from backdrop.frames.layouts import list_sequences
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import split_truth
from backdrop.student.labels.files import TABLE_COLUMNS
from benchmarks.sequences import run_one

ROOT = Path(__file__).resolve().parent.parent
FRAMES = (0, 1, 3, 10)
KINDS = ("boxes", "masks")


def frames_to_label(run: Path, name: str, count: int, spread: bool) -> list[int]:
    """The first so many frames that a person would label, of those that have truth.

    Args:
        run: folder of the run without labels.
    """
    archive = FrameArchive(run / "data" / "frames" / f"{name}.zip")
    known = [t for t in range(len(archive)) if archive.has_mask(t)]
    if spread:
        return [known[int((k + 0.5) * len(known) / count)] for k in range(min(count, len(known)))]
    found = [one for one in candidates(run) if one.t in set(known)]
    return [one.t for one in choose(found, count)]


def write_labels(folder: Path, archive: FrameArchive, frames: list[int], kind: str) -> None:
    """Labels of some frames, read off the truth: masks as PNG, boxes (or that nothing is there) in a table."""
    shutil.rmtree(folder, ignore_errors=True)
    place = folder / archive.path.stem
    place.mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(TABLE_COLUMNS)
        for t in frames:
            stored = archive.mask(t)
            assert stored is not None
            mask, _ = split_truth(stored)
            left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
            if kind == "masks":
                Image.fromarray(stored).save(place / f"{archive.names[t]}.png")
            elif not width:
                table.writerow([place.name, archive.names[t], "nothing"])
            else:
                table.writerow([place.name, archive.names[t], "box", left, top, left + width, top + height])


def mean_j(run: Path, without: set[int]) -> float:
    """Mean J of what ships over a run's frames, some left out."""
    scored = pd.read_csv(run / "metrics" / "per_frame.csv")
    own = scored[(scored["result"] == "method") & ~scored["frame"].isin(without)]
    return float(own["J"].mean())


def run_sequence(args: argparse.Namespace, root: Path, name: str) -> list[dict[str, Any]]:
    """All rows of a sequence; those that are done are read."""
    work = args.work.resolve() / args.scale / name
    base = work / "0"
    _once(args, root, name, base, [])
    chosen = frames_to_label(base, name, max(args.frames), args.spread) if max(args.frames) else []
    rows = [{"sequence": name, "kind": "none", "frames": 0, "J": mean_j(base, set(chosen))}]
    archive = FrameArchive(base / "data" / "frames" / f"{name}.zip")
    for count in (count for count in args.frames if count):
        for kind in args.kinds:
            folder, labels = work / f"{count}_{kind}", work / "labels" / f"{count}_{kind}"
            print(f"{name}: {count} {kind}", file=sys.stderr, flush=True)
            write_labels(labels, archive, chosen[:count], kind)
            result = _once(args, root, name, folder, [f"data.labels={labels}"], base)
            rows.append(
                {"sequence": name, "kind": kind, "frames": count, "J": mean_j(folder, set(chosen))}
                | {"labeled": chosen[:count], "cpu_minutes": result["cpu_minutes"]}
            )
    return rows


def _once(
    args: argparse.Namespace, root: Path, name: str, folder: Path, changes: list[str], base: Path | None = None
) -> dict[str, Any]:
    done = folder / "result.json"
    overrides = [*args.set, *changes]
    before = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {}
    if before.get("overrides") == overrides:
        return before
    return run_one(args.data, str(root), name, folder, scale=args.scale, overrides=overrides, base=base)


def curve(rows: list[dict[str, Any]]) -> str:
    """Markdown: J by number of labeled frames, a row a sequence and kind, and the means."""
    counts = sorted({row["frames"] for row in rows})
    lines = ["| sequence | labels | " + " | ".join(map(str, counts)) + " |", "|---|---|" + "---|" * len(counts)]
    names = list(dict.fromkeys(row["sequence"] for row in rows))
    for kind in dict.fromkeys(row["kind"] for row in rows if row["frames"]):
        cells = []
        for name in names:
            of = {r["frames"]: r["J"] for r in rows if r["sequence"] == name and r["kind"] in ("none", kind)}
            cells.append([of.get(count, float("nan")) for count in counts])
            lines.append(f"| {name} | {kind} | " + " | ".join(f"{j:.3f}" for j in cells[-1]) + " |")
        lines.append(f"| **mean** | {kind} | " + " | ".join(f"{j:.3f}" for j in np.mean(cells, axis=0)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a file of conf/data/: davis2016, cdnet2014, ...")
    parser.add_argument("root", type=Path, help="the data set's folder")
    parser.add_argument("--only", nargs="*", help="names of sequences; default: all")
    parser.add_argument("--frames", nargs="*", type=int, default=list(FRAMES), help="numbers of labeled frames")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--spread", action="store_true", help="label evenly spread frames")
    parser.add_argument("--scale", default="sequence", help="a file of conf/scale/")
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, as for dvc exp run -S")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "labels")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "labels.json")
    args = parser.parse_args()
    layout = yaml.safe_load((ROOT / "conf" / "data" / f"{args.data}.yaml").read_text(encoding="utf-8"))["layout"]
    root = args.root.resolve()
    names = [s.name for s in list_sequences(layout, root) if not args.only or s.name in args.only]
    rows, failed = [], False
    for number, name in enumerate(names, 1):
        print(f"sequence {number} of {len(names)}: {name}", file=sys.stderr, flush=True)
        try:
            rows += run_sequence(args, root, name)
        except (BackdropError, OSError) as problem:
            failed = True
            print(f"error: {name}: {problem}", file=sys.stderr, flush=True)
        args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if rows:
        print(curve(rows))
    if failed or not rows:
        sys.exit(1)


if __name__ == "__main__":
    main()
