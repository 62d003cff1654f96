"""Archives of frames with their index, as the stage frames leaves them, and a fault in one."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np

from backdrop.io.archives import ArchiveWriter


def write_sequences(folder: Path, sequences: dict[str, list[np.ndarray]]) -> None:
    """Frame archives with their index, as the stage frames leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        "sequence,split,source,status,reason,frames,declared_frames,width,height,source_width,source_height,fps,masks"
    ]
    for name, images in sequences.items():
        with ArchiveWriter(folder / f"{name}.zip") as writer:
            lines = ["frame,name,time_s,has_mask"]
            for t, image in enumerate(images):
                coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
                writer.add(f"images/{t:06d}.jpg", coded.tobytes())
                lines.append(f"{t},{t:06d},{t / 25},0")
            writer.add("frames.csv", ("\n".join(lines) + "\n").encode())
        count, (height, width) = len(images), images[0].shape[:2]
        rows.append(f"{name},train,{name}.mp4,ok,,{count},{count},{width},{height},{width},{height},25,0")
    rows.append("broken,train,broken.mp4,skipped,no video,0,0,0,0,0,0,0,0")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")


def damage_frame(path: Path, t: int) -> None:
    """Flip a bit in a stored frame."""
    data = bytearray(path.read_bytes())
    with ZipFile(path) as archive:
        data[archive.getinfo(f"images/{t:06d}.jpg").header_offset + 300] ^= 1
    path.write_bytes(data)
