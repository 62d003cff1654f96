"""H.264 whose frames are coded as two fields, each in a packet of its own (PAFF): no encoder at hand writes it.

Every macroblock holds its samples as they are (I_PCM), so that the writer is short.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.video.moving_square import COUNT, HEIGHT, WIDTH, square_frames


class Bits:
    """A stream of bits as H.264 writes them."""

    def __init__(self) -> None:
        self.bits: list[int] = []

    def fixed(self, width: int, value: int) -> Bits:
        self.bits += [value >> i & 1 for i in reversed(range(width))]
        return self

    def flags(self, text: str) -> Bits:
        self.bits += [int(bit) for bit in text]
        return self

    def golomb(self, *values: int) -> Bits:
        """Exponential Golomb codes."""
        for value in values:
            self.fixed(2 * (value + 1).bit_length() - 1, value + 1)
        return self

    def align(self) -> Bits:
        self.bits += [0] * (-len(self.bits) % 8)
        return self

    def unit(self, header: int) -> bytes:
        """A NAL unit with its start code, with escapes where samples look like one."""
        content = np.packbits(np.array([*self.bits, 1], np.uint8)).tobytes()
        escaped, zeros = bytearray(), 0
        for byte in content:
            if zeros >= 2 and byte <= 3:
                escaped.append(3)
                zeros = 0
            escaped.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return b"\0\0\0\1" + bytes([header]) + bytes(escaped)


def _parameters() -> bytes:
    rows = -(-HEIGHT // 32)  # of two macroblocks, one of each field
    sequence = Bits().fixed(8, 77).fixed(8, 0).fixed(8, 30).golomb(0, 0, 0, 4, 1).flags("0")
    sequence.golomb(WIDTH // 16 - 1, rows - 1).flags("001")  # fields are allowed, within a frame they are not mixed
    crop = (32 * rows - HEIGHT) // 4
    sequence.flags("1").golomb(0, 0, 0, crop) if crop else sequence.flags("0")
    sequence.flags("100001").fixed(32, 1).fixed(32, 50).flags("1000" + "11").golomb(0, 0, 10, 10, 0, 1)
    picture = Bits().golomb(0, 0).flags("00").golomb(0, 0, 0).flags("000").golomb(0, 0, 0).flags("100")
    return sequence.unit(0x67) + picture.unit(0x68)


def _field(luma: np.ndarray, t: int, bottom: int) -> bytes:
    """A field as an access unit. The first one of a frame begins the sequence anew."""
    slice_ = Bits().golomb(0, 7, 0).fixed(4, 0).flags("1").fixed(1, bottom)
    if not bottom:
        slice_.golomb(t % 2)
    slice_.fixed(8, bottom).flags("0" if bottom else "00").golomb(0, 1)
    chroma = np.full(128, 128, np.uint8)
    for y in range(0, luma.shape[0], 16):
        for x in range(0, luma.shape[1], 16):
            samples = np.concatenate([luma[y : y + 16, x : x + 16].ravel(), chroma])
            slice_.golomb(25).align().bits += np.unpackbits(samples).tolist()
    delimiter = b"\0\0\0\1\x09\x10"
    return delimiter + (b"" if bottom else _parameters()) + slice_.unit(0x61 if bottom else 0x65)


def write_fields(path: Path, together: bool = False) -> Path:
    """The moving square as field pictures, 25 frames a second.

    Args:
        together: both fields of a frame in one packet.
    """
    stream = b""
    for t, image in enumerate(square_frames(COUNT)):
        luma = np.full((-(-HEIGHT // 32) * 32, WIDTH), 60, np.uint8)
        luma[:HEIGHT] = image[..., 0]
        stream += _field(luma[::2], t, 0) + _field(luma[1::2], t, 1)
    with av.open(io.BytesIO(stream), format="h264") as source, av.open(str(path), "w") as container:
        output = container.add_stream_from_template(source.streams.video[0])
        fields = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        assert len(fields) == 2 * COUNT
        units = [a + b for a, b in zip(fields[::2], fields[1::2], strict=True)] if together else fields
        for t, unit in enumerate(units):
            packet = av.Packet(unit)
            packet.stream, packet.time_base = output, Fraction(COUNT, 25 * len(units))
            packet.pts = packet.dts = t
            packet.duration, packet.is_keyframe = 1, together or t % 2 == 0
            container.mux(packet)
    return path
