"""What each term of the CRF of higher order brings, its distance from the dense CRF, and the time of both.

    python -m benchmarks.structured runs/sequences/*                  # finished runs of benchmarks.sequences
    python -m benchmarks.structured --near /path/to/DAVIS2016-train   # error and time against pydensecrf2

The first reads soft masks, boxes, frames and truth of finished runs and prints J and F of the masks: of the unary
alone, of each choice of terms with the weights of params.yaml (`GIVEN` where these are 0), and with learned weights:
from the pseudo-masks of the run itself, as a user can learn them, and from the truth of the other runs, which bounds
what can be gained. Nothing in the library learns from truth. The second makes soft masks from the truth of ten
sequences, a frame each, blurred, moved and disturbed, at 640 x 360. Times are CPU milliseconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from backdrop.crf.dense import refine, unary_energy
from backdrop.crf.findings import BoxFindings, Edges, best_finding
from backdrop.crf.higher_order import infer_higher_order, weights_of
from backdrop.crf.learning import Example, example, learn_weights, stored_examples, with_weights_of
from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import Mask, Predictions, Soft, read_threshold, split_truth
from backdrop.measures import boundary_f, jaccard
from backdrop.params import read
from backdrop.run.chunks import one_thread, spread

ROOT = Path(__file__).resolve().parent.parent
GIVEN = {"superpixel_background": 1.0, "superpixel_foreground": 1.0, "detection": 0.5}
"""Weights of terms that are off by default."""

PAIRWISE, SUPERPIXELS = ("gaussian_compat", "bilateral_compat"), ("superpixel_background", "superpixel_foreground")
ROWS: dict[str, tuple[str, ...]] = {
    "unary": (),
    "+ pairwise": PAIRWISE,
    "+ superpixels": (*PAIRWISE, *SUPERPIXELS),
    "+ detections": (*PAIRWISE, "detection"),
    "all": (*PAIRWISE, *SUPERPIXELS, "detection"),
}
"""As in the paper's table: pairwise terms everywhere but in the first row."""

LEARNED = ("+ pairwise", "all")
"""Rows that are made with learned weights, too. A weight of the unary alone moves no mask."""

PSEUDO = "data/pseudo_masks"
"""Where a run keeps what its student learned from."""

OWN_BOX = ("+ detections", "all")
"""These rows are made once more with D's own box: what ships is the extent of the student's subject."""

NEAR_SIZE, NEAR_FRAMES, NEAR_TIMES = (640, 360), 10, 3


class Case(NamedTuple):
    """A scored frame: image, soft mask, its threshold, truth, void, what ships as a box, and D's own box."""

    image: np.ndarray
    soft: Soft
    threshold: float
    truth: Mask
    void: Mask | None
    box: BoxFindings
    own: BoxFindings


def cases(run: Path, count: int) -> Iterator[Case]:
    """Up to so many frames with truth of each sequence of a run, evenly spaced."""
    data = run / "data"
    threshold = read_threshold(data / "masks")[0]
    for path in sorted((data / "predictions").glob("*.zip")):
        frames, soft = FrameArchive(data / "frames" / path.name), Predictions(path)
        paper = data / "predictions_paper" / path.name
        own = Predictions(paper) if paper.is_file() else soft
        there = [t for t in range(len(frames)) if frames.has_mask(t) and soft.has(t)]
        for t in spread(there, count):
            stored = frames.mask(t)
            assert stored is not None
            boxes = (best_finding(one.box[t], one.p[t]) for one in (soft, own))
            yield Case(frames.image(t), soft.soft(t), threshold, *split_truth(stored), *boxes)


def with_terms(params: CRFParams, terms: tuple[str, ...]) -> CRFParams:
    """The CRF of higher order with these terms alone, at the given weights."""
    values = params.model_dump()
    off = {key: 0.0 for key in (*PAIRWISE, *GIVEN) if key not in terms}
    given = {key: values[key] or GIVEN.get(key, 0.0) for key in terms}
    return CRFParams.model_validate({**values, "kind": "higher_order", **given, **off})


def as_example(case: Case, params: CRFParams, box: BoxFindings) -> Example:
    known = None if case.void is None else ~case.void
    return example(case.image, case.soft, case.truth, params, threshold=case.threshold, known=known, found=box)


def choices(params: CRFParams) -> dict[str, tuple[CRFParams, bool]]:
    """Row -> (parameters, whether D's own box is asked), without learning."""
    found = {"pydensecrf2 (ships)": (params.model_copy(update={"kind": "dense"}), False)}
    found |= {row: (with_terms(params, terms), False) for row, terms in ROWS.items()}
    return found | {f"{row}, D's own box": (with_terms(params, ROWS[row]), True) for row in OWN_BOX}


def by_truth(run: Path, row: CRFParams, runs: dict[Path, list[Case]], taught: int) -> list[Example]:
    """Frames of the other runs, with their truth."""
    rest = [its[:: max(1, len(its) // taught)] for other, its in runs.items() if other != run]
    return [as_example(case, row, case.box) for its in rest for case in its]


def by_pseudo_masks(run: Path, row: CRFParams, runs: dict[Path, list[Case]], taught: int) -> list[Example]:
    """Frames of the run itself, with its pseudo-masks, as `python -m backdrop.crf.learning` reads them."""
    data = run / "data"
    return stored_examples(data / "frames", data / "predictions", run / PSEUDO, row, count=len(runs) * taught)


TEACHERS = {"pseudo-masks": by_pseudo_masks, "the others' truth": by_truth}


def score(found: list[Case], params: CRFParams, own: bool) -> dict[str, float]:
    """Mean J and F over cases, and CPU milliseconds a frame."""
    rows, spent = [], 0.0
    for case in found:
        start = time.process_time()
        mask = refine(case.image, case.soft, case.threshold, params, case.own if own else case.box)
        spent += time.process_time() - start
        rows.append((jaccard(mask, case.truth, case.void), boundary_f(mask, case.truth, case.void)))
    j, f = np.mean(rows, axis=0)
    return {"J": round(float(j), 4), "F": round(float(f), 4), "ms": round(1000 * spent / len(found))}


def ablate(
    runs: dict[Path, list[Case]],
    params: CRFParams,
    steps: int,
    taught: int,
    keep: Callable[[dict[str, Any]], object] = lambda result: None,
) -> dict[str, Any]:
    """All rows for all runs: {row: {run: figures}}, and the learned weights.

    Args:
        taught: frames of each other run from whose truth weights are learned; of a run's own pseudo-masks as many as
            that is with all runs. keep: is given what is there after each row.
    """
    result: dict[str, Any] = {"rows": {}, "weights": {}}
    for row, (values, own) in choices(params).items():
        result["rows"][row] = {run.name: score(found, values, own) for run, found in runs.items()}
        print(row, result["rows"][row], flush=True)
        keep(result)
    there = {"pseudo-masks": all((run / PSEUDO).is_dir() for run in runs), "the others' truth": len(runs) > 1}
    for row, teacher in product(LEARNED, [name for name in TEACHERS if there[name]]):
        start, name = with_terms(params, ROWS[row]), f"{row}, learned from {teacher}"
        result["rows"][name], result["weights"][name] = {}, {}
        for run, found in runs.items():
            examples = TEACHERS[teacher](run, start, runs, taught)
            weights = learn_weights(examples, weights_of(start), start.iterations, steps=steps)
            result["weights"][name][run.name] = {k: round(float(v), 3) for k, v in weights._asdict().items()}
            result["rows"][name][run.name] = score(found, with_weights_of(start, weights), False)
        print(name, result["rows"][name], result["weights"][name], flush=True)
        keep(result)
    return result


def lines(result: dict[str, Any]) -> list[str]:
    """The table, as Markdown: mean over runs, and J / F of each run."""
    names = list(next(iter(result["rows"].values())))
    said = [f"| terms | J | F | ms | {' | '.join(names)} |", "|---" * (len(names) + 4) + "|"]
    for row, own in result["rows"].items():
        mean = [float(np.mean([own[run][key] for run in names])) for key in ("J", "F", "ms")]
        each = [f"{own[run]['J']:.3f} / {own[run]['F']:.3f}" for run in names]
        said.append(f"| {row} | {mean[0]:.3f} | {mean[1]:.3f} | {mean[2]:.0f} | {' | '.join(each)} |")
    return said


def disturbed(truth: Mask, rng: np.random.Generator) -> Soft:
    """A soft mask from truth: moved by some pixels, blurred, with smooth noise where it is unsure."""
    height, width = truth.shape
    soft = cv2.GaussianBlur(np.roll(truth.astype(np.float32), (3, -4), (0, 1)), (0, 0), 6)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 8)
    soft += 0.15 * noise / noise.std() * (4 * soft * (1 - soft) + 0.2)
    return np.clip(soft, 0, 1).astype(np.float32)


def near_cases(root: Path) -> Iterator[tuple[str, np.ndarray, Mask, Soft]]:
    """Sequence, image, truth and soft mask of the middle frame of the first ten sequences of DAVIS."""
    rng = np.random.default_rng(0)
    for folder in sorted((root / "JPEGImages" / "480p").iterdir())[:NEAR_FRAMES]:
        frames = sorted(folder.glob("*.jpg"))
        path = frames[len(frames) // 2]
        image = cv2.imread(str(path))
        stored = cv2.imread(str(root / "Annotations" / "480p" / folder.name / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
        if image is None or stored is None:
            raise BackdropError(f"{path} or its annotation cannot be read: give a folder of DAVIS with 480p")
        small, mask = (cv2.resize(a, NEAR_SIZE, interpolation=cv2.INTER_AREA) for a in (image, stored))
        truth = np.asarray(mask > 127)
        yield folder.name, cv2.cvtColor(small, cv2.COLOR_BGR2RGB), truth, disturbed(truth, rng)


def dense_probability(image: np.ndarray, energy: np.ndarray, params: CRFParams) -> np.ndarray:
    """Q(foreground) of pydensecrf2, (H, W)."""
    from pydensecrf.densecrf import DenseCRF2D

    height, width = image.shape[:2]
    crf = DenseCRF2D(width, height, 2)
    crf.setUnaryEnergy(energy)
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_compat)
    crf.addPairwiseBilateral(
        sxy=params.bilateral_sxy, srgb=params.bilateral_srgb, rgbim=image, compat=params.bilateral_compat
    )
    return np.array(crf.inference(params.iterations)).reshape(2, height, width)[1]


def _least_ms(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the CPU milliseconds of its fastest of `NEAR_TIMES` runs."""
    spent = []
    for _ in range(NEAR_TIMES):
        start = time.process_time()
        found = call()
        spent.append(1000 * (time.process_time() - start))
    return found, min(spent)


def nearness(root: Path, params: CRFParams) -> dict[str, Any]:
    """Differences of the pairwise terms from pydensecrf2, and times of the whole image, side by side."""
    rows: list[dict[str, Any]] = []
    pair, full = with_terms(params, ROWS["+ pairwise"]), with_terms(params, ROWS["all"])
    reaches = (params.gaussian_sxy, params.bilateral_sxy)
    for name, image, truth, soft in near_cases(root):
        energy = unary_energy(soft, 0.5, params)
        logit, pixels = (energy[0] - energy[1]).reshape(soft.shape), np.ascontiguousarray(image)
        y, x = np.nonzero(truth)
        box = [Edges(float(x.min()), float(y.min()), float(x.max()) + 1, float(y.max()) + 1, 0.9)]
        q, dense_ms = _least_ms(partial(dense_probability, pixels, energy, params))
        z, pair_ms = _least_ms(partial(infer_higher_order, pixels, logit, pair, reaches, []))
        every, full_ms = _least_ms(partial(infer_higher_order, pixels, logit, full, reaches, box))
        own = 1 / (1 + np.exp(-z.astype(np.float64)))
        unsure = (soft > 0.05) & (soft < 0.95)
        rows.append(
            {
                "sequence": name,
                "iou": jaccard(q > 0.5, own > 0.5),
                "q_difference": float(np.abs(q - own).mean()),
                "q_difference_unsure": float(np.abs(q - own)[unsure].mean()),
                "iou_unrefined": jaccard(q > 0.5, soft > 0.5),
                "J_unrefined": jaccard(soft > 0.5, truth),
                "J_dense": jaccard(q > 0.5, truth),
                "J_pairwise": jaccard(own > 0.5, truth),
                "J_all": jaccard(every > 0, truth),
                "ms_dense": dense_ms,
                "ms_pairwise": pair_ms,
                "ms_all": full_ms,
            }
        )
        print({k: v if isinstance(v, str) else round(v, 4) for k, v in rows[-1].items()}, flush=True)
    keys = [key for key in rows[0] if key != "sequence"]
    return {"frames": rows, "mean": {key: round(float(np.mean([row[key] for row in rows])), 4) for key in keys}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="folders of finished runs")
    parser.add_argument("--near", type=Path, help="root of DAVIS 2016")
    parser.add_argument("--frames", type=int, default=10, help="scored frames of each run, evenly spaced")
    parser.add_argument("--taught", type=int, default=5, help="frames of each other run from which weights are learned")
    parser.add_argument("--steps", type=int, default=150, help="steps of learning")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "structured.json")
    arguments = parser.parse_args()
    params = read(ROOT / "params.yaml").crf
    result = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.is_file() else {}

    def keep(part: dict[str, Any]) -> None:
        arguments.out.write_text(json.dumps(result | part, indent=1) + "\n", encoding="utf-8")

    with one_thread():
        cv2.setNumThreads(1)
        if arguments.near:
            result["near"] = nearness(arguments.near, params)
            keep({})
            print(json.dumps(result["near"]["mean"], indent=1))
        finished = [run for run in arguments.runs if (run / "result.json").is_file()]
        if arguments.runs and not finished:
            raise BackdropError("none of these runs is finished: each needs its result.json")
        if finished:
            found = {run.resolve(): list(cases(run, arguments.frames)) for run in finished}
            rest = params, arguments.steps, arguments.taught, lambda rows: keep({"ablation": rows})
            print("\n".join(lines(ablate(found, *rest))))


if __name__ == "__main__":
    main()
