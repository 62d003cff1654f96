"""Sequences in chunks: order, faults, what is kept open, and folders of parts that vanish."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from backdrop.errors import BackdropError, WriteError
from backdrop.io.files import parts_folder
from backdrop.io.frame_archive import frame_counts
from backdrop.run.chunks import by_sequence, cached_open, spans
from tests.handmade_run import scene, write_frames

WORKERS = pytest.mark.parametrize("workers", [1, 2])
COUNTS = {"a": 7, "b": 0, "c": 3, "d": 1}


def squares(name: str, span: range, bad: int) -> list[str]:
    """The first chunk takes longest; frame `bad` of a has a fault."""
    time.sleep(0.2 * (span.start == 0 and name == "a"))
    if name == "a" and bad in span:
        raise BackdropError(f"{name}: frame {bad}")
    return [f"{name}{t**2}" for t in span]


def touch(name: str, span: range, folder: Path) -> Path:
    """Begins a file, waits, and ends it."""
    part = folder / f"{name}.{span.start}.part"
    part.touch()
    time.sleep(0.1)
    return part.rename(part.with_suffix(".whole"))


def test_spans_hold_each_frame_once() -> None:
    for count in range(1, 12):
        for length in (1, 3, 20):
            found = spans(count, length)
            assert [t for span in found for t in span] == list(range(count))
            assert {len(span) for span in found[:-1]} <= {length}
    assert spans(0, 3) == [range(0)]


@WORKERS
@pytest.mark.parametrize("length", [1, 3, 100])
def test_results_come_by_sequence_and_in_order(workers: int, length: int) -> None:
    found = {
        name: list(parts)
        for name, parts in by_sequence(squares, COUNTS, length, (99,), workers=workers, title="squares")
    }
    assert list(found) == list(COUNTS)
    assert {name: len(parts) for name, parts in found.items()} == {k: len(spans(n, length)) for k, n in COUNTS.items()}
    for name, parts in found.items():
        assert sum(parts, []) == [f"{name}{t**2}" for t in range(COUNTS[name])]


@WORKERS
def test_a_fault_is_told_when_its_chunk_comes(workers: int) -> None:
    found = by_sequence(squares, COUNTS, 2, (4,), workers=workers, title="squares")
    name, parts = next(found)
    assert name == "a"
    assert [next(parts), next(parts)] == [["a0", "a1"], ["a4", "a9"]]
    with pytest.raises(BackdropError, match="a: frame 4"):
        next(parts)


@WORKERS
def test_a_caller_that_leaves_leaves_nothing_half_done(workers: int, tmp_path: Path) -> None:
    with closing(by_sequence(touch, {"a": 40}, 1, (tmp_path,), workers=workers, title="touching")) as found:
        _, parts = next(found)
        assert next(parts).is_file()
    assert not list(tmp_path.glob("*.part"))
    assert 0 < len(list(tmp_path.glob("*.whole"))) < 20


def test_a_file_is_opened_once_until_it_changes(tmp_path: Path) -> None:
    opened: list[str] = []

    def read(path: Path, *rest: str) -> str:
        opened.append(path.read_text() + "".join(rest))
        return opened[-1]

    path = tmp_path / "one"
    path.write_text("1")
    assert [cached_open(read, path), cached_open(read, path), cached_open(read, path, "x")] == ["1", "1", "1x"]
    assert opened == ["1", "1x"]
    path.with_suffix(".new").write_text("2")
    path.with_suffix(".new").replace(path)
    assert cached_open(read, path) == "2"
    with pytest.raises(FileNotFoundError, match="none"):
        cached_open(read, tmp_path / "none")


def test_nothing_is_kept_open_in_the_end(tmp_path: Path) -> None:
    opened: list[Path] = []

    def open_again(path: Path) -> int:
        opened.append(path)
        return len(opened)

    def use(name: str, span: range) -> int:
        return cached_open(open_again, tmp_path)

    for number in (1, 2):
        ((_, parts),) = [
            (name, list(parts)) for name, parts in by_sequence(use, {"a": 3}, 1, (), workers=1, title="use")
        ]
        assert parts == [number] * 3


def test_parts_vanish_at_the_end_and_those_of_a_killed_run_at_the_beginning(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with parts_folder(out) as killed:
        (killed / "a.0.zip").write_bytes(b"half")
        with parts_folder(out) as folder:
            assert folder != killed
            assert list(out.iterdir()) == [folder]
    with pytest.raises(IsADirectoryError), parts_folder(out) as folder:
        folder.write_bytes(b"half")
    assert not out.exists(), "nothing came of it"
    with parts_folder(out):
        (out / "a.zip").write_bytes(b"whole")
    assert [path.name for path in out.iterdir()] == ["a.zip"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(WriteError, match=r"cannot write .*/out: No space left"), parts_folder(tmp_path / "out"):
        pass


def test_frames_are_counted(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 2)):
        write_frames(tmp_path, name, scene(count)[0], {})
    assert frame_counts(tmp_path, ["b", "a"]) == {"b": 2, "a": 3}
    with pytest.raises(BackdropError, match=r"c\.zip does not exist"):
        frame_counts(tmp_path, ["a", "c"])
