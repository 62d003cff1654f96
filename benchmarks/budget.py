"""J against `data.budget` on long footage, and what a frame costs: core seconds, memory and bytes on disk.

    python -m benchmarks.budget /path/to/mouse.mp4                               # budgets 500 1000 2000 4000
    python -m benchmarks.budget /path/to/mouse.mp4 --budgets 150 --only frames   # a try, in a minute
    python -m benchmarks.budget /path/to/mouse.mp4 --files 24 --budgets 4000 --out benchmarks/hour.json   # an hour
    python -m benchmarks.budget /path/to/mouse.mp4 --files 24 --joined --budgets 4000    # the same in a single file

The video, stretched to 1280 x 720, and its mirror image make a file; there are `--files` of them. Masks are of
640 x 360, without the CRF. The subject is a dark animal on a light ground: the largest dark region that does not touch
the border stands in for the truth in every `--truth`-th frame of the first file. Runs the stages of dvc.yaml in a
folder a budget under runs/budget/. A stage that is done is not run again. Writes benchmarks/budget.json after each
stage, and prints a table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from backdrop.io.files import atomic_path
from backdrop.io.index import read_index, read_videos
from backdrop.params import compose_params
from backdrop.video.decode import decode_video
from backdrop.video.encode import encode_video
from benchmarks.bench import machine
from benchmarks.growth import commands, disk, measure

HD = (1280, 720)
SETTINGS = ["scale=sequence", "data.size=[640,360]", "crf.enabled=false"]
ROOT = Path(__file__).resolve().parent.parent


def dark_region(image: np.ndarray, level: int) -> np.ndarray:
    """(H, W) uint8, 255 in the largest region darker than `level` that does not touch the image's border."""
    gray = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 2)
    _, labels, stats, _ = cv2.connectedComponentsWithStats((gray < level).astype(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[[0, *np.unique(np.r_[labels[0], labels[-1], labels[:, 0], labels[:, -1]])]] = 0
    best = int(areas.argmax())
    return ((labels == best) & bool(areas[best])).astype(np.uint8) * 255


def prepare(video: Path, folder: Path, files: int, every: int, level: int, *, joined: bool = False) -> Path:
    """Files that each show the video and its mirror image, and the masks of the first one.

    Args:
        joined: one file that shows all of that `files` times. Of files that are the same, the same bursts are drawn, of
            one long file each from another place.
    """
    footage = folder / "videos"
    if footage.is_dir():
        return footage
    part = folder / "videos.part"
    shutil.rmtree(part, ignore_errors=True)
    masks = part / "masks" / "v00"
    masks.mkdir(parents=True)

    def shown() -> Iterator[np.ndarray]:
        for mirrored in (False, True):
            for t, _, image in decode_video(video):
                large = cv2.resize(image, HD, interpolation=cv2.INTER_CUBIC)
                if not mirrored and t % every == 0:
                    cv2.imwrite(str(masks / f"{t:06d}.png"), dark_region(large, level))
                yield large[:, ::-1] if mirrored else large

    encode_video(part / "v00.mp4", shown(), fps=30, quality=60)
    if joined:
        once = (part / "v00.mp4").rename(part / "once.mp4")
        repeat(once, part / "v00.mp4", files)
        once.unlink()
    for k in range(1, 1 if joined else files):
        os.link(part / "v00.mp4", part / f"v{k:02d}.mp4")
    part.rename(footage)
    return footage


def repeat(video: Path, out: Path, times: int) -> None:
    """A video again and again in one file, its packets copied."""
    with av.open(str(out), "w") as target, av.open(str(video)) as first:
        shown = first.streams.video[0]
        stream, length = target.add_stream_from_template(shown), shown.duration or 0
        for k in range(times):
            with av.open(str(video)) as source:
                for packet in source.demux(source.streams.video[0]):
                    if packet.pts is not None and packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + k * length, packet.dts + k * length
                        packet.stream = stream
                        target.mux(packet)


def run(folder: Path, budget: int, footage: Path, args: argparse.Namespace, done: dict[str, Any], save: Any) -> None:
    """All stages but render; `save()` is called after each."""
    folder.mkdir(parents=True, exist_ok=True)
    changes = ["data=videos", f"data.root='{footage}'", f"data.budget={budget}", *args.set]
    compose_params(changes, folder / "params.yaml", ROOT / "conf")
    for name, lines in commands().items():
        if name == "render" or name in done.get("stages", {}) or (args.only and name not in args.only):
            continue
        print(f"budget {budget}: {name} ...", file=sys.stderr, flush=True)
        before, began = disk(folder), time.monotonic()
        parts = [measure(line, folder) for line in lines]
        done["machine"] = machine()
        done.setdefault("stages", {})[name] = {
            "wall": time.monotonic() - began,
            "seconds": sum(part["seconds"] for part in parts),
            "MB": max(part["MB"] for part in parts),
            "disk_MB": disk(folder) - before,
        }
        frames = folder / "data" / "frames"
        done["trained_on"] = int(read_index(frames)["frames"].sum())
        done["frames"] = int(read_videos(frames)["frames"].sum())
        scores = folder / "metrics" / "scores.json"
        if scores.is_file():
            done["J"] = json.loads(scores.read_text()).get("method", {}).get("J_mean")
        save()


def table(runs: dict[str, dict[str, Any]]) -> str:
    """A row a run; its key is files_budget."""
    lines = [
        "| budget | trained on | of frames | J | core s per frame, all stages | kB per frame |",
        "|---|---|---|---|---|---|",
    ]
    for key, run in runs.items():
        stages = run["stages"].values()
        seconds, size = sum(one["seconds"] for one in stages), sum(one["disk_MB"] for one in stages)
        j = "" if run.get("J") is None else f"{run['J']:.2f}"
        cost = f"{seconds / run['frames']:.3f} | {1000 * size / run['frames']:.1f}"
        lines.append(f"| {key.split('_')[1]} | {run['trained_on']:,} | {run['frames']:,} | {j} | {cost} |")
    return "\n".join(lines)


def by_stage(run: dict[str, Any]) -> str:
    """Where the time goes: a row a stage."""
    lines = ["| stage | core s | wall s | MB of memory | kB a frame on disk |", "|---|---|---|---|---|"]
    for name, one in run["stages"].items():
        kept = 1000 * one["disk_MB"] / run["frames"]
        lines.append(f"| {name} | {one['seconds']:,.0f} | {one['wall']:,.0f} | {one['MB']:,.0f} | {kept:.1f} |")
    hours = sum(one["seconds"] for one in run["stages"].values()) / 3600
    return "\n".join([*lines, f"| all | {hours:.2f} core hours | | | |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--budgets", type=int, nargs="+", default=[500, 1000, 2000, 4000])
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--joined", action="store_true", help="one file that is as long as all of them")
    parser.add_argument("--truth", type=int, default=40, help="a mask for every n-th frame of the first file")
    parser.add_argument("--dark", type=int, default=70, help="gray level below which a pixel is the subject's")
    parser.add_argument("--set", nargs="*", default=SETTINGS, help="further overrides")
    parser.add_argument("--only", nargs="*", default=[], help="stages; without: all")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "budget")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "budget.json")
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    shape = f"{args.files}joined" if args.joined else str(args.files)
    footage = prepare(args.video, work / f"footage{shape}", args.files, args.truth, args.dark, joined=args.joined)
    runs: dict[str, dict[str, Any]] = json.loads(args.out.read_text()) if args.out.is_file() else {}

    def save() -> None:
        with atomic_path(args.out) as temporary:
            temporary.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")

    for budget in args.budgets:
        key = f"{shape}_{budget}"
        run(work / key, budget, footage, args, runs.setdefault(key, {}), save)
    done = {key: one for key, one in runs.items() if one.get("stages")}
    print(table(done))
    for key, one in done.items():
        print(f"\nbudget {key.split('_')[1]}, {one['frames']:,} frames ({one['machine']})\n\n{by_stage(one)}")


if __name__ == "__main__":
    main()
