"""Twenty minutes of 360p video: how much memory `backdrop predict` takes, and that it goes on after two kills.

    python -m benchmarks.long_video /path/to/clip.mp4 --model models/segmenter

The clip is played forwards and backwards until it is long enough. The command is killed in the first third
(SIGINT, as Ctrl-C does) and in the second (SIGKILL), and run again each time. Prints for each run the frames that it
segmented and the largest resident memory (all of its processes' pages, as the kernel counts them), and checks that
every frame was segmented once and that a run without a stop gives the same records where it is asked for (--whole).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backdrop.app.records import read_records
from backdrop.io.files import atomic_path
from backdrop.video.decode import decode_video
from backdrop.video.encode import encode_video

ROOT = Path(__file__).resolve().parent.parent
SIZE = (640, 360)
STOPS = ((1 / 3, signal.SIGINT), (2 / 3, signal.SIGKILL))


def looped(clip: Path, frames: int) -> Iterator[np.ndarray]:
    images = [cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA) for _, _, image in decode_video(clip)]
    yield from islice(cycle([*images, *images[-2:0:-1]]), frames)


def run(command: list[str], log: Path, records: Path, stop: tuple[int, signal.Signals] | None) -> dict[str, Any]:
    """Run until it ends, or until the records hold `stop` frames; frames at the end, status and peak memory."""
    before, start = _frames(records), time.monotonic()
    with log.open("a") as stream:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=stream,
            stderr=subprocess.STDOUT,
            preexec_fn=hear_ctrl_c,  # noqa: PLW1509
        )
    pid, sent = 0, stop is None
    while not pid:  # not poll(): it would take the child's usage with it
        time.sleep(0.5)
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if not pid and not sent and stop is not None and _frames(records) >= stop[0]:
            os.kill(child.pid, stop[1])
            sent = True
    child.returncode = os.waitstatus_to_exitcode(status)
    return {
        "frames": _frames(records) - before,
        "status": child.returncode,
        "peak_GB": usage.ru_maxrss * 1024 / 1e9,
        "seconds": time.monotonic() - start,
    }


def hear_ctrl_c() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _frames(records: Path) -> int:
    """Lines of the records that hold a frame."""
    return records.read_bytes().count(b'\n{"frame":') if records.is_file() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "segmenter")
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--fps", type=int, default=10, help="of the long video")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "long_video")
    parser.add_argument("--options", nargs="*", default=["--refine", "none"], help="further options of predict")
    parser.add_argument("--whole", action="store_true", help="run once more without a stop and compare")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "long_video.json")
    args = parser.parse_args()
    video, count = args.work.resolve() / "long.mp4", args.minutes * 60 * args.fps
    if not video.is_file():
        encode_video(video, looped(args.clip, count), fps=args.fps)
    common = [sys.executable, "-m", "backdrop.app.cli", "predict", str(video), "--model", str(args.model.resolve())]

    def command(out: Path) -> list[str]:
        return [*common, *args.options, "--format", "masks", "--quiet", "-o", str(out)]

    out, log = args.work.resolve() / "stopped", args.work.resolve() / "log.txt"
    path = out / "records" / "long.jsonl"
    runs = []
    for stop in (*STOPS, None):
        runs.append(run(command(out), log, path, None if stop is None else (int(stop[0] * count), stop[1])))
        print(json.dumps(runs[-1]), flush=True)
    records = read_records(path)
    assert records is not None
    numbers = [record.frame for record in records.frames]
    result: dict[str, Any] = {
        "minutes": args.minutes,
        "frames": count,
        "runs": runs,
        "each_frame_once": numbers == list(range(count)),
        "masks": len(list((out / "masks" / "long").glob("*.png"))),
        "peak_GB": max(one["peak_GB"] for one in runs),
    }
    if args.whole:
        whole = args.work.resolve() / "whole"
        result["whole"] = run(command(whole), log, whole / "records" / "long.jsonl", None)
        result["same_records"] = (whole / "records" / "long.jsonl").read_bytes() == path.read_bytes()
    with atomic_path(args.out) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
