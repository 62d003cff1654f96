"""What each cue is worth: J of the first pseudo-masks of sequences with truth, with all cues and without each of them.

    python -m benchmarks.cues davis2016 /path/to/DAVIS2016-train

The cues are computed once for a sequence; a row then fuses some of them. No network is trained on the footage, D is not
asked, and truth is read for the scores alone. A mask is what the pseudo-mask has above one half. Where it says that
nothing is known, nothing is found. Writes a table to standard output and benchmarks/cues_<data>.json. Sequences that
are done are not run again (--again). With `--prior u2netp`, rows with a model from outside: supervised.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from backdrop.errors import BackdropError
from backdrop.frames.layouts import list_sequences
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import resize_mask, split_truth
from backdrop.measures import jaccard
from backdrop.params import compose_params, load_params
from backdrop.student.cues import cue_names
from backdrop.student.cues.regions import REGION_CUES
from backdrop.student.parameters import StudentParams, StudentStage
from backdrop.student.pseudo_masks import (
    Detection,
    Trust,
    Work,
    allocate,
    find_regions,
    fit_motion,
    gather_cues,
    label_frames,
    weigh_cues,
)
from backdrop.student.targets import IGNORED
from benchmarks.sequences import ROOT, interval, run_stages

PREPARING = ("frames", "stabilize")
ALL = "all cues"


def rows(names: list[str]) -> dict[str, tuple[list[str], dict[str, Any]]]:
    """Row -> its cues, and what else of the student's settings it changes."""
    own = [name for name in names if name != "prior"]
    found: dict[str, tuple[list[str], dict[str, Any]]] = {ALL: (own, {})}
    found |= {f"without {name}": ([other for other in own if other != name], {}) for name in own}
    found |= {f"{name} alone": ([name], {}) for name in own}
    found["without fast_motion and nlc"] = ([name for name in own if name not in REGION_CUES], {})
    found["cues weigh alike"] = (own, {"consensus": 0.0})
    found["subjects never rest"] = (own, {"resting": False})
    if "prior" in names:
        found["all cues and the prior"] = (names, {})
        found["prior alone"] = (["prior"], {})
    return found


def pseudo_masks(work: Work, planes: np.ndarray, order: list[str], params: StudentParams) -> np.ndarray:
    """The first pseudo-masks of a sequence, (N, H, W) uint8 as stored, from some of its cues.

    Args:
        planes: (N, K, H, W) uint8, the cues of all frames in the order of `order`.
    """
    chosen = [order.index(name) for name in cue_names(params)]
    np.save(work.evidence, planes[:, chosen])
    width, height = params.size
    allocate(work.labels, (work.count, height, width), IGNORED)
    unseen = Detection(np.zeros((work.count, 4)) + [0, 0, 2, 2], np.zeros(work.count))
    label_frames(work, range(work.count), params, Trust(weigh_cues(work, params), unseen, 0.0))
    return np.load(work.labels)


def mean_overlap(frames: FrameArchive, labels: np.ndarray, every: int) -> float:
    """Mean J of stored pseudo-masks with truth, over the frames that have both; first and last frame apart.

    Raises:
        BackdropError: no frame has both.
    """
    found = []
    for t in range(every, len(frames) - 1, every):
        stored = frames.mask(t)
        if stored is None:
            continue
        truth, void = split_truth(stored)
        mask = resize_mask((labels[t] != IGNORED) & (labels[t] > (IGNORED - 1) / 2), truth.shape[::-1])
        found.append(jaccard(mask, truth, void))
    if not found:
        raise BackdropError(f"no frame of {frames.path} has truth and a pseudo-mask; those are {every} frames apart")
    return float(np.mean(found))


def of_sequence(name: str, *, data: str, root: str, work: Path, prior: str | None) -> dict[str, Any]:
    """J by row of one sequence, and the CPU minutes that its cues took.

    Raises:
        BackdropError: a stage failed; names its log.
    """
    folder = work / name
    own = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["student"]["cues"]
    cues = [*own, "prior"] if prior else own
    overrides = [f"data={data}", f"data.root={root}", f'data.only=["{name}"]', "data.protocol=self", "scale=sequence"]
    overrides += ["compute.workers=1", f"student.cues=[{','.join(cues)}]"] + (
        [f"student.prior={prior}"] if prior else []
    )
    folder.mkdir(parents=True, exist_ok=True)
    compose_params(overrides, folder / "params.yaml", ROOT / "conf")
    run_stages(folder, PREPARING)
    params = load_params(StudentStage, folder / "params.yaml").student
    path = folder / "data" / "frames" / f"{name}.zip"
    frames = FrameArchive(path)
    homographies = folder / "data" / "homographies" / f"{name}.npz"
    labels, evidence, motion = (folder / file for file in ("labels.npy", "evidence.npy", "motion.safetensors"))
    one = Work(name, path, homographies, labels, evidence, motion, None, len(frames))
    begun, (width, height), order = time.process_time(), params.size, cue_names(params)
    fit_motion(one, params)
    find_regions(one, [cue for cue in order if cue in REGION_CUES], params)
    allocate(one.evidence, (one.count, len(order), height, width), IGNORED)
    gather_cues(one, range(one.count), params)
    minutes = (time.process_time() - begun) / 60
    planes, overlaps = np.load(one.evidence), {}
    for row, (chosen, changes) in rows(order).items():
        some = params.model_copy(update={"cues": chosen, **changes})
        overlaps[row] = mean_overlap(frames, pseudo_masks(one, planes, order, some), params.every)
    result = {"sequence": name, "cpu_minutes": minutes, "prior": prior, "J": overlaps}
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a row for each choice of cues: mean J, its gain over all cues, and how many sequences lose."""
    lines = ["| | J | against all cues (95 %) | sequences that lose |", "|---|---|---|---|"]
    for row in results[0]["J"]:
        values = [one["J"][row] for one in results]
        gains = [value - one["J"][ALL] for value, one in zip(values, results, strict=True)]
        against = "" if row == ALL else "{:+.3f} ({:+.3f} to {:+.3f})".format(np.mean(gains), *interval(gains))
        fewer = "" if row == ALL else f"{sum(gain < 0 for gain in gains)}"
        lines.append(f"| {row} | {np.mean(values):.3f} | {against} | {fewer} |")
    minutes = float(np.mean([one["cpu_minutes"] for one in results]))
    text = "\n".join([*lines, f"\n{len(results)} sequences; the cues took {minutes:.1f} CPU minutes for each."])
    return f"{text} Rows with the prior are supervised." if results[0]["prior"] else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a file of conf/data/: davis2016, cdnet2014, bms26, ...")
    parser.add_argument("root", type=Path, help="the data set's folder")
    parser.add_argument("--only", nargs="*", help="names of sequences; default: all")
    parser.add_argument("--prior", help="also rows with this model from outside, as student.prior has it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="sequences at a time, a core each")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "cues")
    parser.add_argument("--out", type=Path, help="default: benchmarks/cues_<data>.json")
    parser.add_argument("--again", action="store_true", help="run sequences anew that are done")
    args = parser.parse_args()
    layout = yaml.safe_load((ROOT / "conf" / "data" / f"{args.data}.yaml").read_text(encoding="utf-8"))["layout"]
    root, work = args.root.resolve(), args.work.resolve()
    names = [s.name for s in list_sequences(layout, root) if not args.only or s.name in args.only]
    done = {name: work / name / "result.json" for name in names}
    kept = {name: json.loads(path.read_text()) for name, path in done.items() if path.is_file() and not args.again}
    kept = {name: result for name, result in kept.items() if result["prior"] == args.prior}
    missing = [name for name in names if name not in kept]
    one = partial(of_sequence, data=args.data, root=str(root), work=work, prior=args.prior)
    os.environ["OMP_NUM_THREADS"] = "1"
    # a process of several threads must not be forked: OpenMP in the child would wait for threads that are not there
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        for result in pool.map(one, missing):
            kept[result["sequence"]] = result
            print(f"done: {result['sequence']}", file=sys.stderr, flush=True)
    if not kept:
        sys.exit(f"error: no sequence of {root} was scored")
    results = [kept[name] for name in names]
    print(table(results))
    out = args.out or ROOT / "benchmarks" / f"cues_{args.data}.json"
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except BackdropError as problem:
        sys.exit(f"error: {problem}")
