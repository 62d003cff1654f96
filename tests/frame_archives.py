"""Archives of frames with their index, as the stage frames leaves them, and a fault in one."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import numpy as np

from backdrop.io.archives import ArchiveWriter
from backdrop.io.frame_archive import frames_table
from backdrop.io.images import encode_jpeg
from backdrop.io.index import INDEX_COLUMNS


class ImageList:
    """Images as a sequence of frames, in memory."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def image(self, t: int) -> np.ndarray:
        return self.images[t]


def write_sequences(folder: Path, sequences: dict[str, list[np.ndarray]]) -> None:
    """Frame archives with their index, as the stage frames leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [",".join(INDEX_COLUMNS)]
    for name, images in sequences.items():
        count, (height, width) = len(images), images[0].shape[:2]
        with ArchiveWriter(folder / f"{name}.zip") as writer:
            for t, image in enumerate(images):
                writer.add(f"images/{t:06d}.jpg", encode_jpeg(image, 95))
            names = [f"{t:06d}" for t in range(count)]
            writer.add("frames.csv", frames_table(names, [t / 25 for t in range(count)], [False] * count))
        rows.append(f"{name},train,{name}.mp4,ok,,{count},{count},{width},{height},{width},{height},25,0")
    rows.append("broken,train,broken.mp4,skipped,no video,0,0,0,0,0,0,0,0")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")


def damage_frame(path: Path, t: int) -> None:
    """Flip a bit in a stored frame."""
    data = bytearray(path.read_bytes())
    with ZipFile(path) as archive:
        data[archive.getinfo(f"images/{t:06d}.jpg").header_offset + 300] ^= 1
    path.write_bytes(data)


def add_entry(path: Path, name: str, content: bytes) -> None:
    """One more entry in an archive."""
    with ZipFile(path, "a") as archive:
        archive.writestr(name, content)
