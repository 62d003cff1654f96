"""Which frames' labels would help most: those that many unsure frames are like, spread over the videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32

from backdrop.app.project.summary import LOOKED_AT
from backdrop.doubts import sureness
from backdrop.errors import BackdropError
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.index import trained_sequences
from backdrop.io.masks import MaskArchive, Predictions
from backdrop.params import read
from backdrop.run.chunks import spread
from backdrop.student.labels.checked import read_labels
from backdrop.student.labels.files import labels_place

LOOK = (8, 6)
"""Pixels (width, height) by which two frames are compared."""

FAR_APART = 0.25
"""Share of a video within which frames count as alike, the more the closer they are."""


class Candidate(NamedTuple):
    """A frame that could be labeled.

    sequence, t: what is trained on, and the frame's position in it. video, place: what is segmented, and its position
    in that; the same unless `data.budget` draws bursts. look: its colors, reduced. when: its place in the video, in
    [0, 1]. sure: as `doubts.sureness`; of an empty mask, how sure it is that there is nothing.
    """

    sequence: str
    t: int
    video: str
    place: int
    sure: float
    look: np.ndarray
    when: float


def candidates(project: Path) -> list[Candidate]:
    """Frames of all videos that are trained on, spread over each.

    Raises:
        BackdropError: the project has no masks yet.
    """
    data = project / "data"
    parts = _trained(project)
    if not parts:
        raise BackdropError(f"{project} has no masks yet of videos that are trained on; run `backdrop train` first")
    each = max(8, LOOKED_AT // len(parts))
    return [one for name, video in parts.items() for one in _of_sequence(data, name, video, each)]


def _trained(project: Path) -> dict[str, str]:
    """What is trained on -> the video with its masks. On a budget, a video has several sequences."""
    found = trained_sequences(project / "data" / "frames")
    return {name: video for name, video in found.items() if (project / "data" / "masks" / f"{video}.zip").is_file()}


def _of_sequence(data: Path, name: str, video: str, most: int) -> Iterator[Candidate]:
    frames, masks = FrameArchive(data / "frames" / f"{name}.zip"), MaskArchive(data / "masks" / f"{video}.zip")
    soft = Predictions(data / "predictions" / f"{video}.zip")
    count, whole = len(frames), FrameArchive(data / "frames" / f"{video}.zip").names
    first = whole.index(frames.names[0])
    for t in spread(range(count), most):
        place = first + t
        if masks.has(place) and soft.has(place):
            small = cv2.resize(frames.image(t), LOOK, interpolation=cv2.INTER_AREA)
            mask, probable = masks.gray(place) > 127, soft.soft(place)
            sure = sureness(probable, mask) if mask.any() else 1.0 - float(probable.max())
            look, when = small.ravel() / np.float32(255), place / max(1, len(whole) - 1)
            yield Candidate(name, t, video, place, sure, look, when)


def labeled_frames(project: Path) -> set[tuple[str, int]]:
    """Sequence and frame of what is labeled already."""
    data = read(project / "params.yaml").data
    place = labels_place(str(project / data.labels), str(project / data.path))
    if place is None:
        return set()
    frames = project / "data" / "frames"
    archives = [FrameArchive(frames / f"{name}.zip") for name in _trained(project)]
    found, _ = read_labels(place, frames, archives, (64, 64))
    return {(name, t) for name, labels in found.items() for t in labels}


def choose(found: Sequence[Candidate], count: int, labeled: Collection[tuple[str, int]] = ()) -> list[Candidate]:
    """At most so many frames, the most useful first. Each video gets one before any gets its second.

    A label helps the frames that are like its own. So a frame is worth the doubt, 1 - `sure`, of all frames, each
    times how much more it is like this one than like any that is labeled or chosen (facility location, greedily). The
    least sure frame alone is often one in which there is next to nothing to label.
    """
    video_of = {one.sequence: one.video for one in found}
    taken = Counter(video_of.get(name, name) for name, _ in labeled)
    alike = _alikeness(found)
    doubt = np.array([1.05 - one.sure for one in found], np.float32)
    done = [i for i, one in enumerate(found) if (one.sequence, one.t) in labeled]
    covered = alike[done].max(axis=0, initial=0)
    left = set(range(len(found))) - set(done)
    picked: list[Candidate] = []
    while left and len(picked) < count:
        fewest = min(taken[found[i].video] for i in left)
        some = sorted(i for i in left if taken[found[i].video] == fewest)
        best = some[int(np.argmax(np.maximum(alike[some] - covered, 0) @ doubt))]
        picked.append(found[best])
        taken[found[best].video] += 1
        left.discard(best)
        covered = np.maximum(covered, alike[best])
    return picked


def _alikeness(found: Sequence[Candidate]) -> Float32[np.ndarray, "N N"]:
    """How alike two frames are, in [0, 1]: in time and in colors; of two videos at most one half."""
    looks, when = np.stack([one.look for one in found]), np.array([one.when for one in found])
    videos = np.array([one.video for one in found])
    usual = float(np.mean(np.linalg.norm(looks - looks.mean(axis=0), axis=1))) + 1e-6
    rows = []
    for one in found:
        unlike = (np.linalg.norm(looks - one.look, axis=1) / usual).clip(max=1)
        later = (np.abs(when - one.when) / FAR_APART).clip(max=1) ** 2
        inside = np.maximum(0.2 * unlike, later * (0.5 + 0.5 * unlike))
        rows.append(1 - np.where(videos == one.video, inside, 0.5 + 0.5 * unlike))
    return np.array(rows, np.float32)
