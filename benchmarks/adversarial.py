"""How easily a student is fooled: J against the size of an attack, with and without the CRF, and across students.

    python -m benchmarks.adversarial                              # models/segmenter, test videos of data/frames
    python -m benchmarks.adversarial --other path/to/segmenter    # and what fools it tried on another student

Attacks change each color of each pixel by at most epsilon (of 255) and know the network:

- fgsm: one step along the sign of the loss's gradient (Goodfellow, Shlens and Szegedy, 2015).
- iterated: steps of 1, min(epsilon + 4, 1.25 epsilon) of them, each kept within epsilon (Kurakin, Goodfellow and
  Bengio, 2017; the schedule of Arnab, Miksik and Torr, 2018).
- targeted: iterated, toward the empty mask.
- noise: signs drawn by chance, for comparison.

The attacked image has the student's working size and 256 levels, as an image file would. The loss is the mean binary
cross-entropy against the ground truth. Masks are cut at the student's label-free threshold. The CRF (`crf` of
params.yaml) takes no part in the gradient. Writes benchmarks/adversarial.csv, which `dvc plots` shows, and a table to
standard output.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from tqdm import tqdm

from backdrop.crf.dense import refine
from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.index import read_index
from backdrop.measures import jaccard
from backdrop.networks.encoder import normalize
from backdrop.networks.predictor import Predictor
from backdrop.networks.student import Student
from backdrop.params import read

ROOT = Path(__file__).resolve().parent.parent
EPSILONS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
ITSELF = "itself"
SMALLEST = 0.01
"""Share of the image that a subject fills at least in a frame that counts."""

RGBImage = UInt8[np.ndarray, "H W 3"]
Gradient = Callable[[Float[Tensor, "1 3 H W"]], Float[Tensor, "1 3 H W"]]


class Case(NamedTuple):
    """A frame at the student's working size, and the subject's true mask."""

    image: RGBImage
    truth: Bool[np.ndarray, "H W"]


def gradient_of(student: Student, mask: Bool[np.ndarray, "H W"]) -> Gradient:
    """Gradient of the loss against `mask` by the image, whose colors lie in [0, 255]."""
    wanted = torch.from_numpy(mask.astype(np.float32))[None, None].to(student.device)

    def gradient(colors: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 3 H W"]:
        colors = colors.detach().requires_grad_()
        loss = F.binary_cross_entropy_with_logits(student.network(normalize(colors / 255)), wanted)
        return torch.autograd.grad(loss, colors)[0]

    return gradient


def steps(epsilon: float) -> int:
    """How many steps of 1 the iterated attacks take."""
    return int(np.ceil(min(epsilon + 4, 1.25 * epsilon)))


def iterate(image: RGBImage, gradient: Gradient, epsilon: float, size: float, count: int) -> RGBImage:
    """`count` steps of `size` up the gradient's sign, never farther than epsilon from the image, in whole levels."""
    start = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    colors = start
    for _ in range(count):
        colors = colors + size * gradient(colors).sign()
        colors = torch.minimum(torch.maximum(colors, start - epsilon), start + epsilon).clamp(0, 255)
    return colors[0].permute(1, 2, 0).round().byte().numpy()


def attacks(student: Student, case: Case, epsilon: float, rng: np.random.Generator) -> Iterator[tuple[str, RGBImage]]:
    """Each attack's name and the image that it makes."""
    against, empty = gradient_of(student, case.truth), gradient_of(student, np.zeros_like(case.truth))
    yield "fgsm", iterate(case.image, against, epsilon, epsilon, 1)
    yield "iterated", iterate(case.image, against, epsilon, 1.0, steps(epsilon))
    yield "targeted", iterate(case.image, lambda colors: -empty(colors), epsilon, 1.0, steps(epsilon))
    signs = rng.choice([-epsilon, epsilon], case.image.shape)
    yield "noise", np.clip(case.image + signs, 0, 255).astype(np.uint8)


def answers(student: Student, case: Case, image: RGBImage, crf: CRFParams) -> tuple[float, float]:
    """J of the student's mask of an image before and after the CRF."""
    level = 0.5 if student.threshold is None else student.threshold
    soft = student.masks([image])[0]
    return jaccard(soft > level, case.truth), jaccard(refine(image, soft, level, crf) > 0.5, case.truth)


def measure(
    students: dict[str, Student], cases: Sequence[Case], crf: CRFParams, epsilons: Sequence[float] = EPSILONS
) -> list[dict[str, object]]:
    """A row for each student asked, attack and epsilon: mean J before and after the CRF.

    The first student is the one whose gradient makes the attacks; the others see the same images.
    """
    rng = np.random.default_rng(0)
    found: dict[tuple[str, str, float], list[tuple[float, float]]] = defaultdict(list)
    first = next(iter(students.values()))
    for case in tqdm(cases, desc="attacked frames", unit="frame"):
        for epsilon in epsilons:
            for attack, image in attacks(first, case, epsilon, rng):
                for name, student in students.items():
                    found[name, attack, epsilon].append(answers(student, case, image, crf))
    rows: list[dict[str, object]] = []
    for (name, attack, epsilon), values in found.items():
        before, after = np.mean(values, axis=0).round(4)
        rows.append({"student": name, "attack": attack, "epsilon": epsilon, "J": before, "J_crf": after})
    return rows


def wide(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """A row for each epsilon, as plots want them; columns are named "attack", "attack, CRF", "attack, on another"."""
    found: dict[object, dict[str, object]] = {}
    for row in rows:
        line = found.setdefault(row["epsilon"], {"epsilon": row["epsilon"]})
        name = f"{row['attack']}" if row["student"] == ITSELF else f"{row['attack']}, on {row['student']}"
        line |= {name: row["J"], f"{name}, CRF": row["J_crf"]}
    return list(found.values())


def table(rows: Sequence[dict[str, object]]) -> str:
    """Markdown: J before / after the CRF, a line for each student and attack, a column for each epsilon."""
    epsilons = sorted({float(row["epsilon"]) for row in rows})  # type: ignore[arg-type]
    lines = ["| student asked | attack | " + " | ".join(f"{e:g}" for e in epsilons) + " |"]
    lines.append("|---" * (len(epsilons) + 2) + "|")
    cells = {(row["student"], row["attack"], row["epsilon"]): f"{row['J']:.2f} / {row['J_crf']:.2f}" for row in rows}
    for name, attack in dict.fromkeys((row["student"], row["attack"]) for row in rows):
        lines.append(f"| {name} | {attack} | " + " | ".join(cells[name, attack, e] for e in epsilons) + " |")
    return "\n".join(lines)


def chosen_cases(frames: Path, size: tuple[int, int], count: int) -> list[Case]:
    """Frames of the test split that show enough of the subject, spread over the videos.

    Raises:
        BackdropError: none of them has ground truth.
    """
    found: list[Case] = []
    index = read_index(frames, usable=True)
    names = list(index.sequence[index.split == "test"])
    for name in names:
        archive = FrameArchive(frames / f"{name}.zip")
        for t in np.linspace(0, len(archive) - 1, max(1, count // len(names)) + 2)[1:-1].astype(int):
            truth = archive.mask(int(t))
            if truth is None:
                continue
            small = cv2.resize(truth, size, interpolation=cv2.INTER_NEAREST) > 127
            if small.mean() >= SMALLEST:
                found.append(Case(cv2.resize(archive.image(int(t)), size, interpolation=cv2.INTER_AREA), small))
    if not found:
        raise BackdropError(f"{frames} has no test frame with ground truth that shows the subject")
    return found


def load(folder: Path) -> Student:
    """The student of a model folder.

    Raises:
        BackdropError: the folder has none.
    """
    student = Predictor.load(folder, "cpu").student
    if student is None:
        raise BackdropError(f"{folder} has no student; give the folder of stage student, models/segmenter")
    return student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "segmenter")
    parser.add_argument("--other", type=Path, help="folder of a second student, for transfer")
    parser.add_argument("--frames", type=Path, default=ROOT / "data" / "frames")
    parser.add_argument("--count", type=int, default=24, help="frames, spread over the test videos")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "adversarial.csv")
    args = parser.parse_args()
    students = {ITSELF: load(args.model)} | ({"another": load(args.other)} if args.other else {})
    cases = chosen_cases(args.frames, students[ITSELF].size, args.count)
    rows = measure(students, cases, read(ROOT / "params.yaml").crf)
    lines = wide(rows)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    print(f"{len(cases)} frames\n\n{table(rows)}")


if __name__ == "__main__":
    main()
