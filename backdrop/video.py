"""Pixels in and out: images, masks' bytes, video files (PyAV), and the archive of one sequence.

Everything streams: no function here holds more than a few frames. Images are RGB, uint8,
(H, W, 3), the first pixel at the top left. Sizes are (width, height), as in OpenCV.
"""

from __future__ import annotations

import csv
import glob
import heapq
import io
import os
import shutil
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideData
from jaxtyping import UInt8
from PIL import Image, ImageOps

from backdrop.errors import UNWRITABLE, BackdropError, WriteError

RGB = UInt8[np.ndarray, "H W 3"]
Gray = UInt8[np.ndarray, "H W"]

BACKGROUND, VOID, FOREGROUND = 0, 128, 255  # the three values of a stored mask

# Pillow can open scripts (EPS) and thousands of pages; footage needs neither.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
MAX_PIXELS = 89_478_485  # Pillow's own bound against decompression bombs

_CODECS = {"h264": "libx264", "mpeg4": "mpeg4", "mjpeg": "mjpeg"}
# what zipfile raises on damaged bytes, depending on which byte it is
ZIP_FAULTS = (OSError, KeyError, EOFError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile)
_FRAME_COLUMNS = ["frame", "name", "time_s", "has_mask"]


def show(path: Path | str) -> str:
    """A path for a message or a table: one line of valid Unicode, whatever bytes the file is named by."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_file_name(text: str) -> bool:
    """Whether a name from a table is that of a file in the very folder it is put into."""
    return text not in ("", ".", "..") and not {"/", "\0"} & set(text)


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """What the system refuses to write in the block is an error that names `path`: a failed write does not.

    Raises:
        WriteError: the folder cannot be written, or the disk is full.
    """
    try:
        yield
    except OSError as fault:
        if fault.errno not in UNWRITABLE:
            raise
        raise WriteError(
            f"cannot write {show(path)}: {fault.strerror}; {UNWRITABLE[fault.errno]} or choose another folder, "
            "and run the same command again"
        ) from fault


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    The temporary name is hidden and keeps the suffix, from which writers take the format.

    Raises:
        WriteError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}.", suffix=path.suffix, dir=path.parent)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)  # mkstemp's files are private; an output is as readable as any other
            temporary.replace(path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its place when the block ends well, and vanishes when it does not.

    Its name is always the same: what a killed process left goes with the next run.

    Raises:
        WriteError: it cannot be written, or the disk is full.
    """
    folder = Path(folder)
    part = folder.with_name(folder.name + ".part")
    try:
        with writing(folder):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            yield part
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def parts_folder(out_dir: Path) -> Iterator[Path]:
    """An empty hidden folder inside `out_dir`, removed at the end; those of killed runs go first.

    An `out_dir` that was not there and got nothing is not left behind. Each run's folder has a name of its own: a
    process that outlives its killed run must not write into that of the next.

    Raises:
        WriteError: the folder cannot be written.
    """
    made = not out_dir.exists()
    with writing(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
        for left in out_dir.glob(".parts-*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=".parts-", dir=out_dir))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made:
            with suppress(OSError):  # there is something in it
                out_dir.rmdir()


def sweep(path: Path | str) -> None:
    """Remove what a killed process left of `atomic_path(path)`; nobody else may be writing it.

    For files whose folder is no output as a whole: such a folder is emptied before each run.
    """
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.stem[:40])}.{_RANDOM}{glob.escape(path.suffix)}"):
        left.unlink(missing_ok=True)


def sweep_below(folder: Path | str) -> None:
    """`sweep` for all files that are or were to be in a folder, at any depth."""
    for left in Path(folder).rglob(f".*.{_RANDOM}.*"):
        left.unlink(missing_ok=True)


_RANDOM = "[a-z0-9_]" * 8
"""What mkstemp puts into names."""


# ---------------------------------------------------------------------------------------------- images


def open_image(source: bytes | Path, name: str | None = None) -> Image.Image:
    """A decoded image, turned upright by its EXIF orientation.

    Args:
        source: the file, or its bytes.
        name: what messages call it; by default the path.

    Raises:
        BackdropError: not an image, damaged, or too large; the message names it.
    """
    name = name or (show(source) if isinstance(source, Path) else "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, by name
            stream = io.BytesIO(source) if isinstance(source, bytes) else source
            image = Image.open(stream, formats=IMAGE_FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError as fault:
        raise BackdropError(f"{name} does not exist") from fault
    except Image.DecompressionBombError as fault:
        raise BackdropError(f"{name} has more than {MAX_PIXELS} pixels; scale it down first") from fault
    except Exception as fault:  # Pillow's decoders raise a dozen kinds on damaged bytes
        raise BackdropError(f"{name} is no readable image ({_line(fault)}); replace or remove it") from fault


def decode_image(source: bytes | Path, name: str | None = None) -> RGB:
    """An image of any common format as RGB, 8 bits: gray repeated, 16 bits scaled, palette looked up, alpha ignored.

    Raises:
        BackdropError: as `open_image`, and for floating-point images, whose range nobody knows.
    """
    return rgb(open_image(source, name), name or (show(source) if isinstance(source, Path) else "image"))


def rgb(image: Image.Image, label: str) -> RGB:
    """A Pillow image as RGB, 8 bits (see `decode_image`).

    Args:
        label: names it in the error.
    """
    if image.mode == "F":
        raise BackdropError(f"{label} holds floating-point values; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16-bit gray, also where Pillow widens it to 32
        gray = np.asarray(image).astype(np.float64)
        eight = np.clip(np.rint(gray / 257), 0, 255).astype(np.uint8)
        return np.repeat(eight[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def resize(image: RGB, size: tuple[int, int] | None) -> UInt8[np.ndarray, "h w 3"]:
    """The image at size (width, height), by area averaging when it shrinks; None keeps it as it is."""
    height, width = image.shape[:2]
    if size is None or tuple(size) == (width, height):
        return image
    shrinks = size[0] <= width and size[1] <= height
    return cv2.resize(image, tuple(size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)  # type: ignore[return-value]


def encode_jpeg(image: RGB, quality: int = 95) -> bytes:
    """JPEG bytes of an RGB image; quality 1..100."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of gray (H, W) or RGB (H, W, 3), uint8 or uint16, lossless."""
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return bytes(cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 4])[1])


def _line(fault: BaseException) -> str:
    """An exception as one line."""
    return " ".join(str(fault).split()) or type(fault).__name__


# -------------------------------------------------------------------------------------------- archives


class ArchiveWriter:
    """Writes one stored (uncompressed) zip; the same entries give the same bytes.

    Use as a context manager: the archive appears under its name when the block ends well,
    and nothing is left when it does not.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __enter__(self) -> ArchiveWriter:
        with ExitStack() as stack:
            target = stack.enter_context(self._target())
            self._zip = stack.enter_context(zipfile.ZipFile(target, "w", zipfile.ZIP_STORED))
            self._stack = stack.pop_all()
        return self

    def _target(self) -> AbstractContextManager[Path]:
        return atomic_path(self.path)

    def add(self, name: str, data: bytes) -> None:
        """Add one entry, under a fixed date so that bytes depend on content only."""
        entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
        entry.create_system, entry.external_attr = 3, 0o644 << 16
        self._zip.writestr(entry, data)

    def join(self, part: Path) -> None:
        """Add the entries of another archive in their order, one held at a time, and remove it.

        Raises:
            BackdropError: it is missing or damaged.
        """
        for name, data in _entries(part):
            self.add(name, data)
        part.unlink()

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, fault, trace)


class PartWriter(ArchiveWriter):
    """Writes a part of an archive, for `ArchiveWriter.join`: in place, since nobody reads it before it is whole.

    Its folder is not made: a process that outlives its killed run would bring it back.

    Args:
        part: the file.
        path: the archive that it is a part of, which a full disk's error names.
    """

    def __init__(self, part: Path, path: Path) -> None:
        super().__init__(path)
        self.part = part

    @contextmanager
    def _target(self) -> Iterator[Path]:
        with writing(self.path):
            yield self.part


def _entries(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of an archive, in the order in which they were written."""
    try:
        with zipfile.ZipFile(archive) as stored:
            for name in stored.namelist():
                yield name, stored.read(name)  # checks the entry's CRC
    except ZIP_FAULTS as fault:
        raise BackdropError(
            f"{show(archive)} is missing or damaged ({_line(fault)}); run the same command again"
        ) from fault


def frames_table(names: Sequence[str], times: Sequence[float], has_mask: Sequence[bool]) -> bytes:
    """The bytes of `frames.csv`: frame, name, time_s (seconds since the first frame of the source), has_mask."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FRAME_COLUMNS)
    for t, (name, time_s, mask) in enumerate(zip(names, times, has_mask, strict=True)):
        writer.writerow([t, name, f"{time_s:.6f}", int(mask)])
    return text.getvalue().encode()


class FrameArchive:
    """Random access to one sequence of `data/frames`.

    It can be pickled, and opens its file anew in each process: two processes that share a file
    handle after a fork would move each other's position.

    Attributes:
        path: the archive.
        names: the frames' names in the source: the file's stem, or the frame number in a video.
        times: (N,) seconds since the first frame of the source.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._pid = 0
        self._size: tuple[int, int] | None = None
        table = self._read("frames.csv", "its table")
        try:
            rows = list(csv.DictReader(io.StringIO(table.decode(), newline="")))
            self.names = [row["name"] for row in rows]
            self.times = np.array([float(row["time_s"]) for row in rows], dtype=np.float64)
            self._has_mask = [bool(int(row["has_mask"])) for row in rows]
            if not all(is_file_name(name) for name in self.names):
                raise ValueError("a frame's name leads elsewhere")
        except (KeyError, TypeError, ValueError, csv.Error) as fault:
            raise BackdropError(f"{show(self.path)}: frames.csv is not ours; run the stage frames again") from fault

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None}

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the stored frames in pixels."""
        if self._size is None:
            height, width = self.image(0).shape[:2]
            self._size = (width, height)
        return self._size

    def image(self, t: int) -> RGB:
        """Frame t, 0 <= t < len, (H, W, 3) RGB."""
        self._check(t)
        image = decode_stored(self._read(f"images/{t:06d}.jpg", f"frame {t}"), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise self._damaged(f"frame {t}")
        return image  # type: ignore[return-value]

    def has_mask(self, t: int) -> bool:
        """Whether frame t has ground truth; without it nothing is known, which is not an empty mask."""
        self._check(t)
        return self._has_mask[t]

    def mask(self, t: int) -> Gray | None:
        """Ground truth of frame t at the truth's own size: 0 background, 255 foreground, 128 void; None without."""
        if not self.has_mask(t):
            return None
        mask = decode_stored(self._read(f"masks/{t:06d}.png", f"mask {t}"))
        if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
            raise self._damaged(f"mask {t}")
        return mask  # type: ignore[return-value]

    def _check(self, t: int) -> None:
        if not 0 <= t < len(self.names):
            raise IndexError(f"{show(self.path)} has frames 0 to {len(self.names) - 1}, not {t}")

    def _read(self, entry: str, what: str) -> bytes:
        try:
            if self._zip is None or self._pid != os.getpid():
                self._zip, self._pid = zipfile.ZipFile(self.path), os.getpid()
            return self._zip.read(entry)  # checks the entry's CRC
        except FileNotFoundError as fault:
            raise BackdropError(f"{show(self.path)} does not exist; run the stage frames first") from fault
        except ZIP_FAULTS as fault:
            raise self._damaged(what) from fault

    def _damaged(self, what: str) -> BackdropError:
        return BackdropError(f"{show(self.path)}: {what} is missing or damaged; run the stage frames again")


def decode_stored(data: bytes, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray | None:
    """The picture of an archive's entry, BGR unless `flags` say RGB; None where the bytes are none."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # no byte at all, or a header of gigapixels
        return None


# ------------------------------------------------------------------------------------------ video files


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself.

    Attributes:
        width, height: of an upright frame, in pixels as stored (pixels are taken as square).
        fps: average frames a second.
        declared_frames: frames the container declares, None where it declares none (Matroska, MPEG-TS).
        duration_s: declared duration of the video track, None where unknown.
    """

    path: Path
    codec: str
    width: int
    height: int
    fps: float
    declared_frames: int | None
    duration_s: float | None


@dataclass
class Tally:
    """What decoding met, to tell a whole file from a damaged one (see `damage`)."""

    decoded: int = 0  # frames that came out whole, kept or not
    hidden: int = 0  # packets that an edit list hides
    lost: int = 0  # frames or packets found corrupt
    end_s: float = 0.0  # end of the last decoded frame, since the start of the track
    complete: bool = False  # the end of the file was reached


def probe(path: Path | str) -> VideoInfo:
    """What the file declares; decodes its first frame, which alone knows the rotation.

    Raises:
        BackdropError: no video, or not one frame can be decoded.
    """
    path = Path(path)
    with _opened(path) as (container, stream):
        _, frame = next(_frames(container, stream, Tally()), (0, None))
        if frame is None:
            raise BackdropError(f"{show(path)}: not one frame can be decoded; is the file whole?")
        transposed = _orientation(frame)[0]
        width, height = (frame.height, frame.width) if transposed else (frame.width, frame.height)
        fps = _fps(stream)
        tag = stream.metadata.get("NUMBER_OF_FRAMES") or stream.metadata.get("NUMBER_OF_FRAMES-eng") or ""
        declared = stream.frames or (int(tag) if tag.isdecimal() else 0) or None
        duration = _declared_duration(container, stream, declared, fps)
        codec = stream.codec_context.name
    return VideoInfo(path, codec, width, height, fps, declared, duration)


def decode_video(
    path: Path | str, every: int = 1, threads: int = 1, tally: Tally | None = None
) -> Iterator[tuple[int, float, RGB]]:
    """Yield (index, time_s, image) of every n-th frame, upright, in the order they are shown.

    Frames that are cut off or marked corrupt are left out, but counted in the index, so that the
    index of the others still is their number in the file.

    Args:
        path: the video file.
        every: keep frames 0, every, 2 every, ...
        threads: decoding threads.
        tally: filled while decoding.

    Returns:
        index: frame number in the file, from 0.
        time_s: presentation time in seconds since the first frame (variable frame rates included).
        image: (H, W, 3) RGB, rotated as the file's display matrix says.

    Raises:
        BackdropError: no video, or not one frame can be decoded.
    """
    tally = Tally() if tally is None else tally
    with _opened(Path(path)) as (container, stream):
        stream.codec_context.thread_count = threads
        if threads > 1:
            stream.codec_context.thread_type = "AUTO"
        fps, first = _fps(stream), None
        origin = float(stream.start_time * stream.time_base) if stream.start_time is not None else None
        for index, frame in _frames(container, stream, tally):
            time = index / fps if frame.time is None else frame.time
            first = time if first is None else first
            length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 1 / fps
            tally.end_s = time + length - (first if origin is None else origin)
            if index % every == 0:
                yield index, time - first, _upright(frame)
        if tally.decoded == 0:
            raise BackdropError(f"{show(Path(path))}: not one frame can be decoded; is the file whole?")
        tally.complete = True


def damage(info: VideoInfo, tally: Tally) -> str:
    """Why the decoded file is not whole, or "".

    Decoders stop silently at the end of a truncated file, so what came out is compared with what
    the file declares. A file is short only if frames and time are both missing: edit lists and
    dropped frames make counts alone unreliable.
    """
    faults = []
    if tally.complete:
        declared, duration = info.declared_frames, info.duration_s
        fewer = declared is None or tally.decoded + tally.hidden < declared
        shorter = duration is None or tally.end_s < duration - 0.5 / info.fps
        if fewer and shorter and declared is not None:
            faults.append(f"{tally.decoded} of {declared} declared frames could be decoded")
        elif fewer and shorter and duration is not None:
            faults.append(f"frames end at {tally.end_s:.2f} s of {duration:.2f} s declared")
    if tally.lost:
        faults.append(f"corrupt frames: {tally.lost}")
    return "; ".join(faults)


def encode_video(
    path: Path | str,
    frames: Iterable[np.ndarray],
    fps: float | int = 24.0,
    codec: str = "h264",
    quality: int = 90,
    times: Sequence[float] | None = None,
    rotation: int = 0,
) -> None:
    """Write RGB frames as a video file whose suffix names the container; atomic, and the same bytes each time.

    Args:
        path: .mp4, .mov, .mkv or .avi.
        frames: (H, W, 3) uint8, all of one size, consumed one at a time.
        fps: frames a second.
        codec: h264, mpeg4 (part 2) or mjpeg.
        quality: 1..100; 100 is the encoder's best.
        times: seconds of each frame, increasing, for a variable frame rate (not in .avi).
        rotation: degrees counterclockwise by which players turn the stored frames (.mp4, .mov).

    Raises:
        BackdropError: unknown codec or container, no frames, frames of mixed sizes.
    """
    path = Path(path)
    if codec not in _CODECS or path.suffix.lower() not in (".mp4", ".mov", ".mkv", ".avi"):
        raise BackdropError(
            f"cannot encode {show(path)} with codec {codec}: codecs are {', '.join(_CODECS)}, "
            "containers .mp4, .mov, .mkv, .avi"
        )
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise BackdropError(f"no frames to encode into {show(path)}")
    with atomic_path(path) as temporary, _muxer(temporary) as container:
        stream = _add_stream(container, first, fps, codec, quality)
        if rotation:
            stream.set_display_rotation(rotation)
        base = Fraction(1, 1000) if times is not None else 1 / stream.codec_context.framerate
        stream.codec_context.time_base = base
        for t, image in enumerate(chain([first], iterator)):
            if image.shape != first.shape:
                raise BackdropError(f"frame {t} for {show(path)} is {image.shape}, the first one {first.shape}")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = t if times is None else round(times[t] * 1000)
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _muxer(path: Path) -> Any:
    # faststart puts the index first, so that a file cut off in transfer can still be read up to the cut;
    # bitexact leaves out dates and versions.
    options = {"fflags": "+bitexact"}
    if path.suffix.lower() in (".mp4", ".mov"):
        options["movflags"] = "+faststart"
    return av.open(_url(path), "w", options=options)


def _add_stream(container: Any, image: np.ndarray, fps: float | int, codec: str, quality: int) -> Any:
    height, width = image.shape[:2]
    stream = container.add_stream(_CODECS[codec], rate=Fraction(fps).limit_denominator(1001))
    stream.width, stream.height = width, height
    stream.codec_context.thread_count = 1  # x264's bytes depend on the number of threads
    stream.codec_context.flags |= av.codec.context.Flags.bitexact
    loss = (100 - quality) / 99
    if codec == "h264":
        # 4:2:0 halves both sides, which odd sizes do not allow in H.264
        stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        # x264's macroblock tree reads memory that it has not written: the same frames then give several files
        stream.options = {"crf": f"{51 * loss:.1f}", "preset": "veryfast", "x264-params": "mbtree=0"}
    else:
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        scale = str(round(2 + 29 * loss))
        stream.options = {"qmin": scale, "qmax": scale}
    return stream


def _url(path: Path) -> str:
    """The path as libav's file protocol: a name with a colon, a % or a leading - means only itself."""
    return "file:" + os.path.abspath(path)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Container and first real video stream of a file.

    Raises:
        BackdropError: the file is missing, empty, no video, or too large.
    """
    if not path.is_file():
        raise BackdropError(f"{show(path)} does not exist or is no file")
    if path.stat().st_size == 0:
        raise BackdropError(f"{show(path)} is empty (0 bytes); copy it again or remove it")
    try:
        # a playlist in disguise must not open the network
        container = av.open(_url(path), options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, UnicodeError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or _line(fault)
        raise BackdropError(
            f"{show(path)} is no readable video ({reason}); it may be cut off, still being copied, or another "
            "kind of file: copy or convert it again, or remove it"
        ) from fault
    with container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise BackdropError(f"{show(path)} holds no video track; remove it from the folder")
        if streams[0].codec_context is None:
            raise BackdropError(f"{show(path)} holds video of an unknown codec; convert it to H.264")
        width, height = streams[0].codec_context.width, streams[0].codec_context.height
        if width * height > MAX_PIXELS:
            raise BackdropError(f"{show(path)} is {width}x{height}; scale it down below {MAX_PIXELS} pixels first")
        yield container, streams[0]


def _frames(container: Any, stream: Any, tally: Tally) -> Iterator[tuple[int, Any]]:
    """Yield (frame number in the file, frame) of the whole frames in the order they are shown.

    A frame's number is that of the packets shown before it, so that lost ones leave a gap. Packets come in
    decoding order; those not yet shown wait in a heap, which is as long as the reordering is deep.
    """
    waiting: list[tuple[int, bool]] = []  # (presentation time stamp, cut or damaged)
    shown, index = 0, -1
    for packet, frames in _packets(container, stream, tally):
        if packet.size and packet.pts is not None and not packet.is_discard:
            heapq.heappush(waiting, (packet.pts, packet.is_corrupt))
        for frame in frames:
            corrupt = frame.is_corrupt or (frame.pts is None and packet.is_corrupt)
            if frame.pts is None and waiting:
                heapq.heappop(waiting)
                shown += 1
            while waiting and frame.pts is not None and waiting[0][0] <= frame.pts:
                pts, damaged = heapq.heappop(waiting)
                corrupt |= damaged and pts == frame.pts
                shown += 1
            index = max(index + 1, shown - 1)
            if corrupt:
                tally.lost += 1
            else:
                tally.decoded += 1
                yield index, frame


def _packets(container: Any, stream: Any, tally: Tally) -> Iterator[tuple[Any, list[Any]]]:
    """Each packet with the frames that come out when it goes in; what cannot be read is counted, not raised."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the rest of the file is unreadable
            tally.lost += 1
            return
        if packet is None:
            return
        tally.hidden += bool(packet.size and packet.is_discard)
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            frames = []
            tally.lost += 1
        yield packet, frames


def _fps(stream: Any) -> float:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(rate) if rate else 25.0


def _declared_duration(container: Any, stream: Any, declared: int | None, fps: float) -> float | None:
    """Seconds of the track by the file's header; None where libav can only guess them from the bytes present."""
    kind = container.format.name
    if "avi" in kind:  # libav shortens a truncated file's duration; the header's count is what was meant
        return declared / fps if declared else None
    if "mp4" in kind:
        return float(stream.duration * stream.time_base) if stream.duration else None
    if "matroska" in kind:
        tag = stream.metadata.get("DURATION") or stream.metadata.get("DURATION-eng")
        if tag:
            with suppress(ValueError):  # the tag is text, and may say anything
                hours, minutes, seconds = tag.split(":")
                return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
        if len(container.streams) == 1 and container.duration:  # else the sound may be what lasts that long
            return container.duration / av.time_base
    return None


def _orientation(frame: Any) -> tuple[bool, bool, bool]:
    """(transpose, then flip left-right, then flip up-down) that turn a decoded frame upright.

    Convention: the display matrix, row-major 16.16 integers a b u c d v x y w, sends the stored pixel
    (x, y), x right and y down, to (a x + c y, b x + d y). Only the nearest axis-aligned map is applied.
    """
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _upright(frame: Any) -> RGB:
    image = frame.to_ndarray(format="rgb24")
    transposed, left_right, up_down = _orientation(frame)
    if transposed:
        image = image.transpose(1, 0, 2)
    if left_right:
        image = image[:, ::-1]
    if up_down:
        image = image[::-1]
    return np.ascontiguousarray(image)
