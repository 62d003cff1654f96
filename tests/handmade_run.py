"""A tiny run of the pipeline, made by hand: a square that moves over a textured scene seen by a panning camera."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np

from backdrop.io.archives import ArchiveWriter
from backdrop.io.frame_archive import frames_table
from backdrop.io.images import encode_jpeg, encode_png
from backdrop.io.index import INDEX_COLUMNS
from backdrop.io.masks import box_from_mask, entry, write_threshold
from backdrop.motion.flow_field import encode_flow
from backdrop.motion.homography import save_homographies
from backdrop.score.frame_scores import ScoreFolders

WIDTH, HEIGHT, SIDE, PAN = 128, 80, 24, 2


def scene(frames: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images and exact masks; the camera pans by `PAN` pixels a frame, the subject by 4 against the scene."""
    rng = np.random.default_rng(seed)
    wide = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH + PAN * frames, 3)).astype(np.float32), (0, 0), 2)
    wide = np.clip((wide - 128) * 5 + 128, 0, 255).astype(np.uint8)
    images, masks = [], []
    for t in range(frames):
        image = wide[:, PAN * t : PAN * t + WIDTH].copy()
        mask = np.zeros((HEIGHT, WIDTH), bool)
        left = min(6 + 2 * t, WIDTH - SIDE)
        mask[28 : 28 + SIDE, left : left + SIDE] = True
        image[mask] = (230, 30, 30)
        images.append(image)
        masks.append(mask)
    return images, masks


def score_folders(root: Path) -> ScoreFolders:
    """Where `make_run` puts what the stage score reads."""
    return ScoreFolders(**{name: root / name for name in ScoreFolders.__dataclass_fields__})


def write_frames(folder: Path, name: str, images: list[np.ndarray], truth: dict[int, np.ndarray]) -> None:
    """`folder`/<name>.zip; truth maps frame -> stored mask (0, 128, 255)."""
    count = len(images)
    with ArchiveWriter(folder / f"{name}.zip") as archive:
        for t, image in enumerate(images):
            archive.add(f"images/{t:06d}.jpg", encode_jpeg(image))
        for t, mask in truth.items():
            archive.add(f"masks/{t:06d}.png", encode_png(mask))
        names = [f"{t:05d}" for t in range(count)]
        archive.add(
            "frames.csv", frames_table(names, [t / 24 for t in range(count)], [t in truth for t in range(count)])
        )


def write_predictions(folder: Path, name: str, soft: dict[int, np.ndarray], boxes: list[np.ndarray]) -> None:
    """`folder`/<name>.zip; soft maps frame -> mask in [0, 1]; all probability is in the box's cell."""
    p = np.zeros((len(boxes), 8, 8))
    for t, box in enumerate(boxes):
        column, row = (min(7, max(0, int((v + 1) * 4))) for v in box[:2])
        p[t, row, column] = 1
    stream = io.BytesIO()
    np.savez(stream, box=np.stack(boxes), p=p, cell=p.reshape(len(p), -1).argmax(axis=1))
    with ArchiveWriter(folder / f"{name}.zip") as archive:
        for t, mask in soft.items():
            archive.add(entry(t), encode_png(np.rint(mask * 255).astype(np.uint8)))
        archive.add("predictions.npz", stream.getvalue())


def write_masks(folder: Path, name: str, masks: dict[int, np.ndarray]) -> None:
    """`folder`/<name>.zip of final masks."""
    with ArchiveWriter(folder / f"{name}.zip") as archive:
        for t, mask in masks.items():
            archive.add(entry(t), encode_png(mask.astype(np.uint8) * 255))


def write_motion(root: Path, name: str, masks: list[np.ndarray]) -> None:
    """Exact homographies (gap 1) and flow of `scene`."""
    count = len(masks)
    forward = np.array([[1, 0, PAN], [0, 1, 0], [0, 0, 1]], np.float64)  # neighbor t + 1 onto frame t
    H = np.stack([forward] * (count - 1) + [np.linalg.inv(forward)])
    neighbor = np.array([*range(1, count), count - 2])
    nothing = np.zeros(count, np.int64)
    (root / "homographies").mkdir(parents=True, exist_ok=True)
    arrays = {"H": H, "neighbor": neighbor, "valid": np.ones(count, bool), "matches": nothing, "inliers": nothing}
    save_homographies(root / "homographies" / f"{name}.npz", arrays | {"reason": np.array([""] * count)})
    with ArchiveWriter(root / "flow" / f"{name}.zip") as archive:
        for t, mask in enumerate(masks):
            flow = np.zeros((*mask.shape, 2), np.float32)
            flow[mask, 0] = 4 if t < count - 1 else -4
            archive.add(entry(t), encode_flow(flow, np.ones(mask.shape, bool)))


def write_index(folder: Path, rows: list[dict]) -> None:
    """`folder`/index.csv from rows that name at least sequence, split, frames."""
    size = {"width": WIDTH, "height": HEIGHT, "source_width": WIDTH, "source_height": HEIGHT}
    common = {"source": "test", "status": "ok", "reason": "", "fps": 24, "masks": 0, **size}
    lines = [",".join(INDEX_COLUMNS)]
    for row in rows:
        row = {**common, "declared_frames": row["frames"], **row}
        lines.append(",".join(str(row[column]) for column in INDEX_COLUMNS))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.csv").write_text("\n".join(lines) + "\n")


def make_run(
    root: Path, splits: dict[str, str], frames: int = 8, threshold: float = 0.5
) -> dict[str, list[np.ndarray]]:
    """A whole run with perfect predictions, sequence -> split; returns the exact masks."""
    truth = {}
    for seed, name in enumerate(splits):
        images, masks = scene(frames, seed)
        stored = {t: mask.astype(np.uint8) * 255 for t, mask in enumerate(masks)}
        write_frames(root / "frames", name, images, stored)
        boxes = [box_from_mask(mask) for mask in masks]
        for kind in ("", "_paper"):
            write_predictions(root / f"predictions{kind}", name, {t: m * 1.0 for t, m in enumerate(masks)}, boxes)
            write_masks(root / f"masks{kind}", name, dict(enumerate(masks)))
        write_motion(root, name, masks)
        truth[name] = masks
    write_index(root / "frames", [{"sequence": n, "split": s, "frames": frames} for n, s in splits.items()])
    for kind in ("", "_paper"):
        for folder in (f"predictions{kind}", f"masks{kind}"):
            write_threshold(root / folder, threshold, "default")
    return truth
