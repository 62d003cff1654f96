"""Exports cutout, alpha, background: the subject without what is behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.codec.context import Flags
from av.video.reformatter import ColorRange
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageOps

from backdrop.app.exports.common import (
    DEFAULTS,
    ExportChoices,
    Faults,
    Files,
    Recorded,
    check_kept,
    each_source,
    frames_with_records,
    label_name,
    write_each,
)
from backdrop.app.exports.video import only_videos, write_like
from backdrop.app.records import Records
from backdrop.app.sources import Source
from backdrop.errors import BackdropError
from backdrop.frames.layouts.listing import warn
from backdrop.io.files import atomic_path, libav_url, show
from backdrop.io.images import RGB, decode_image
from backdrop.io.masks import Mask
from backdrop.video.color import ColorTags
from backdrop.video.decode import probe
from backdrop.video.encode import Presentation

RGBA = UInt8[np.ndarray, "H W 4"]
"""Alpha is 255 in the mask, else 0."""

SMALLEST_VP9 = 200
"""Pixels of the shorter side. At 130 and below, libvpx gave another alpha back, and not the same one each time."""

_PRORES_MATRICES = (1, 6, 9)
"""The others have no number in a ProRes frame. 5 is 6 by another name."""

_FRINGE = 8
"""Pixels around the subject that keep their colors in a video: its colors are coarser than its alpha."""


def cut_out(image: RGB, mask: Mask, fringe: int = 0) -> RGBA:
    """The image with the mask as alpha. Further outside than `fringe` pixels it is black: nothing shines through."""
    alpha = mask.astype(np.uint8) * np.uint8(255)
    kept = alpha if not fringe else cv2.dilate(alpha, np.ones((2 * fringe + 1, 2 * fringe + 1), np.uint8))
    return np.dstack([np.where(kept[..., None] > 0, image, 0).astype(np.uint8), alpha])


def write_cutout(
    found: Sequence[Recorded], folder: Path, choices: ExportChoices = DEFAULTS, faults: Faults | None = None
) -> list[Path]:
    """Write <folder>/cutout/<name>.png, of a video <name>/frame_<number>.png: RGBA, of the frame's size."""

    def files(source: Source, records: Records) -> Files:
        for image, record in frames_with_records(source, records):
            picture = Image.fromarray(cut_out(image, record.decoded()))
            yield folder / "cutout" / f"{label_name(source, record)}.png", partial(picture.save, format="PNG")

    return write_each(found, faults, files)


def write_background(
    found: Sequence[Recorded], folder: Path, choices: ExportChoices = DEFAULTS, faults: Faults | None = None
) -> list[Path]:
    """Write <folder>/background/<name>.png, of a video <name>.mp4: the subject before a color or another image.

    An image as background is scaled to cover the frame, and cropped about its center.

    Raises:
        BackdropError: the background is neither a color nor a readable image.
    """
    behind = _backdrop(choices.background)

    def files(source: Source, records: Records) -> Files:
        for image, record in frames_with_records(source, records):
            picture = Image.fromarray(_before(behind, image, record.decoded()))
            yield folder / "background" / f"{source.name}.png", partial(picture.save, format="PNG")

    def write(source: Source, records: Records) -> list[Path]:
        if not source.video:
            return write_each([(source, records)], None, files)
        path = folder / "background" / f"{source.name}.mp4"
        frames = frames_with_records(source, records)
        write_like(path, (_before(behind, image, one.decoded()) for image, one in frames), source, records)
        return [path]

    return [path for paths in each_source(found, faults, write) for path in paths]


def _backdrop(text: str) -> Image.Image:
    """The image of this path, or one pixel of this color."""
    if Path(text).is_file():
        return Image.fromarray(decode_image(Path(text)))
    try:
        return Image.new("RGB", (1, 1), ImageColor.getrgb(text)[:3])
    except ValueError:
        raise BackdropError(
            f"--background {text} is neither an image nor a color; name a file, or a color as white, #00ff00, "
            "rgb(0,255,0)"
        ) from None


def _before(behind: Image.Image, image: RGB, mask: Mask) -> RGB:
    fitted = np.asarray(ImageOps.fit(behind, image.shape[1::-1]))
    return np.where(mask[..., None], image, fitted).astype(np.uint8)


def write_alpha(
    found: Sequence[Recorded], folder: Path, choices: ExportChoices = DEFAULTS, faults: Faults | None = None
) -> list[Path]:
    """Write <folder>/alpha/<name>.mov (ProRes 4444), or .webm (VP9): each video with its masks as alpha, silent.

    Images are left out. Times, colors and the shape of pixels are the video's own.

    Raises:
        BackdropError: there is no video among the sources.
    """
    videos = only_videos(found, "alpha", "cutout")
    return list(each_source(videos, faults, partial(_write_transparent, folder, not choices.webm)))


def _write_transparent(folder: Path, prores: bool, source: Source, records: Records) -> Path:
    check_kept(source, records)
    path, info = folder / "alpha" / f"{source.name}{'.mov' if prores else '.webm'}", probe(source.path)
    end = records.ending.end
    rate = Fraction((len(records.frames) / end) if end > 0 else info.fps).limit_denominator(1001)
    times = [*(record.time for record in records.frames), end]
    shown = Presentation(times, max(info.tick, Fraction(1, 100_000)), info.aspect, info.color.complete(info.height))
    frames = (cut_out(image, one.decoded(), _FRINGE) for image, one in frames_with_records(source, records))
    with atomic_path(path) as temporary:
        options = {"fflags": "+bitexact"}
        with av.open(libav_url(temporary), "w", options=options) as container:
            _encode_transparent(container, frames, rate, shown, prores)
    if _has_sound(source.path):
        warn(f"{show(path)} is silent; the sound of {show(source.path)} is not in it")
    return path


def _encode_transparent(
    container: Any, frames: Iterator[RGBA], rate: Fraction, shown: Presentation, prores: bool
) -> None:
    stream, color = None, shown.color or ColorTags().complete(0)
    if prores and color.matrix not in _PRORES_MATRICES:
        color = color._replace(matrix=6)
    for image, (pts, duration) in zip(frames, shown.ticks(), strict=True):
        if stream is None:
            stream = _transparent_stream(container, image, rate, prores)
            _describe_transparent(stream, shown, color)
        if image.shape[:2] != (stream.height, stream.width):
            raise BackdropError("frames of several sizes; take cutout")
        frame = av.VideoFrame.from_ndarray(image, format="rgba").reformat(
            format=stream.pix_fmt, dst_colorspace=color.matrix, dst_color_range=ColorRange.MPEG
        )
        # ProRes writes the frame's own, not the stream's
        frame.colorspace, frame.color_range = color.matrix, ColorRange.MPEG
        frame.color_primaries, frame.color_trc = color.primaries, color.transfer
        frame.pts, frame.duration, frame.time_base = pts, duration, shown.tick
        container.mux(stream.encode(frame))
    if stream is None:
        raise BackdropError("no frames; run `backdrop predict` again")
    container.mux(stream.encode())


def _transparent_stream(container: Any, image: RGBA, rate: Fraction, prores: bool) -> Any:
    if not prores and min(image.shape[:2]) < SMALLEST_VP9:
        raise BackdropError(f"VP9 does not keep alpha of frames below {SMALLEST_VP9} pixels; leave out --webm")
    stream = container.add_stream("prores_ks" if prores else "libvpx-vp9", rate=rate)
    stream.height, stream.width = image.shape[:2]
    stream.pix_fmt = "yuva444p10le" if prores else "yuva420p"
    # without auto-alt-ref 0 the encoder hides frames, which alpha does not follow
    vp9 = {"crf": "18", "b": "0", "auto-alt-ref": "0", "deadline": "good", "cpu-used": "5"}
    stream.options = {"profile": "4444"} if prores else vp9
    return stream


def _describe_transparent(stream: Any, shown: Presentation, color: ColorTags) -> None:
    context = stream.codec_context
    context.thread_count = 1  # the bytes depend on the number of threads
    context.flags |= Flags.bitexact | Flags.frame_duration
    context.time_base = shown.tick
    stream.sample_aspect_ratio = context.sample_aspect_ratio = shown.aspect
    context.colorspace, context.color_range = color.matrix, ColorRange.MPEG
    context.color_primaries, context.color_trc = color.primaries, color.transfer


def _has_sound(path: Path) -> bool:
    with av.open(libav_url(path), options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
        return bool(container.streams.audio)
