"""Stage render: which clips there are, and their video files and exact masks."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backdrop.io.archives import ArchiveWriter
from backdrop.io.images import encode_png
from backdrop.render.clip import Clip, mask_box
from backdrop.render.parameters import FootageParams
from backdrop.run.processes import each
from backdrop.video.encode import encode_video


@dataclass(frozen=True)
class Plan:
    """One clip of the data set: its name, split and the arguments that differ between clips."""

    name: str
    split: str
    seed: int
    mode: str
    subject: int
    stretch: int


_FIRST = {"train": 0, "val": 400, "test": 800}  # subjects and stretches of different splits never meet


def plan_clips(params: FootageParams) -> list[Plan]:
    """Which clips make up the data set.

    Modes are taken in turn. Every clip has a subject of its own. It also has a stretch of the street of its own,
    unless there are `places`: then these are taken in turn, in every split.
    """
    plans, modes = [], list(params.modes)
    for split, count in (("train", params.train), ("val", params.val), ("test", params.test)):
        for index in range(count):
            mode = modes[index % len(modes)]
            first = _FIRST[split] + 1200 * params.seed
            seed = 100003 * params.seed + 5 * _FIRST[split] + index
            stretch = 1200 * params.seed + index % params.places if params.places else first + index
            plans.append(Plan(f"{split}_{index:02d}_{mode}", split, seed, mode, first + index, stretch))
    return plans


def make_clip(plan: Plan, params: FootageParams) -> Clip:
    """The clip of a plan; all clips of one seed share the town."""
    return Clip(
        plan.seed,
        plan.mode,
        (params.size[0], params.size[1]),
        params.frames,
        fps=params.fps,
        subject=plan.subject,
        town=params.seed,
        stretch=plan.stretch,
    )


def render_all(out_dir: Path | str, params: FootageParams, workers: int = 1) -> list[Plan]:
    """Render the data set as real video files with its truth.

    Writes `videos/<split>/<sequence>.mp4` (H.264) and `truth/<sequence>.zip` with `masks/%06d.png` (8-bit
    gray, 255 = subject), `boxes.csv` (frame,cx,cy,w,h in [-1, 1], empty fields where no subject is seen)
    and `homographies.npy` ((N, 3, 3) float64, scene <- frame).

    Args:
        out_dir: folder to write into; it is made if missing.
        params: the section `footage` of the parameters.
        workers: processes; 1 renders in this one. The pictures do not depend on it.

    Returns:
        The plans of the clips, in the order of rendering.
    """
    plans = plan_clips(params)
    for _ in each(_render, [(Path(out_dir), plan, params) for plan in plans], workers):
        pass
    return plans


def _render(out_dir: Path, plan: Plan, params: FootageParams) -> None:
    render_clip(out_dir, plan.split, plan.name, make_clip(plan, params))


def render_clip(out_dir: Path, split: str, name: str, clip: Clip) -> None:
    """The video of a clip and its truth, as `render_all` describes them."""
    video, truth = out_dir / "videos" / split / f"{name}.mp4", out_dir / "truth" / f"{name}.zip"
    for path in (video, truth):
        path.parent.mkdir(parents=True, exist_ok=True)
    rows = ["frame,cx,cy,w,h"]
    with ArchiveWriter(truth) as archive:
        for t in range(len(clip)):
            mask = clip.mask(t)
            archive.add(f"masks/{t:06d}.png", encode_png(mask.astype(np.uint8) * 255))
            box = mask_box(mask)
            rows.append(f"{t}," + ",".join("" if np.isnan(v) else f"{v:.6f}" for v in box))
        archive.add("boxes.csv", ("\n".join(rows) + "\n").encode())
        buffer = io.BytesIO()
        np.save(buffer, np.stack([clip.scene(t) for t in range(len(clip))]))
        archive.add("homographies.npy", buffer.getvalue())
    encode_video(video, iter(clip), clip.fps, "h264")
