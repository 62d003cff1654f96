"""The footage of the comparison: where the frames of each sequence lie, in a manifest that DVC can compare.

The embedded test videos are those of a finished run. DAVIS and CDnet are read from the folder that BACKDROP_REAL_DATA
names, through the pipeline's own stage frames; where they are not at hand the manifest says so, and the table goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from backdrop.errors import BackdropError
from backdrop.frames.parameters import DataParams
from backdrop.frames.stage import extract_all
from backdrop.io.files import atomic_path, show
from backdrop.io.index import read_index

VARIABLE = "BACKDROP_REAL_DATA"


class Outside(NamedTuple):
    """A data set below `VARIABLE`: its folder, its layout, and the sequences taken (none: all)."""

    folder: str
    layout: str
    only: tuple[str, ...] = ()


TEST_VIDEOS = "embedded"

OUTSIDE = {
    "davis": Outside("data/DAVIS2016-train", "davis"),
    "badminton": Outside("data/CDnet2014", "cdnet", ("badminton",)),
}

FOOTAGE = (TEST_VIDEOS, *OUTSIDE)


class Manifest(NamedTuple):
    """A footage as it is at hand.

    Attributes:
        frames: folder of the archives.
        sequences: name -> SHA-256 of its archive.
        reason: why there is none; "" where there are some.
    """

    frames: str
    sequences: dict[str, str]
    reason: str


def write_manifest(name: str, path: Path) -> Manifest:
    """Make a footage's frames available, and write its manifest. Frames that were extracted before stay.

    Raises:
        BackdropError: there is no such footage, or an archive cannot be written.
    """
    if name not in FOOTAGE:
        raise BackdropError(f"there is no footage {name!r}; footage is {', '.join(FOOTAGE)}")
    frames = Path("data/frames") if name == TEST_VIDEOS else path.with_suffix("")
    try:
        manifest = Manifest(str(frames), _sequences(name, frames), "")
    except BackdropError as fault:
        manifest = Manifest(str(frames), {}, " ".join(str(fault).split()))
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(manifest._asdict(), indent=1) + "\n", encoding="utf-8")
    return manifest


def read_manifest(path: Path) -> Manifest:
    """What `write_manifest` wrote.

    Raises:
        BackdropError: it is missing or damaged.
    """
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as fault:
        remedy = f"run `python -m backdrop.rivals footage {path.stem}`"
        raise BackdropError(f"{show(path)} is no manifest of footage ({fault}): {remedy}") from None


def _sequences(name: str, frames: Path) -> dict[str, str]:
    if name != TEST_VIDEOS and not (frames / "index.csv").is_file():
        _extract(OUTSIDE[name], frames)
    index = read_index(frames, usable=True)
    if name == TEST_VIDEOS:
        index = index[index["split"] == "test"]
    names = [str(one) for one in index["sequence"]]
    if not names:
        raise BackdropError(f"{show(frames)} holds no test video: run the pipeline on the embedded footage first")
    return {one: hashlib.sha256((frames / f"{one}.zip").read_bytes()).hexdigest() for one in names}


def _extract(source: Outside, frames: Path) -> None:
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise BackdropError(f"{VARIABLE} is unset: set it to the folder that holds {source.folder}")
    root = str(Path(folder) / source.folder)
    extract_all(DataParams.model_validate(_data(source, root)), frames)


def _data(source: Outside, root: str) -> dict[str, Any]:
    """As `conf/data/davis2016.yaml` and `cdnet2014.yaml` have it: every frame, at its own size."""
    whole = {"size": None, "every": 1, "limit": None, "budget": 0, "protocol": "self", "strict": False, "quality": 95}
    names: dict[str, Any] = {"val": [], "test": [], "only": list(source.only)}
    # labels: root says that there are none
    places = {"layout": source.layout, "root": root, "path": root, "labels": root, "roi": None, "roi_path": root}
    return names | whole | places
