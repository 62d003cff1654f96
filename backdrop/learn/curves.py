"""Progress bars and DVCLive's curves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dvclive import Live
from tqdm import tqdm

from backdrop.io.files import writing
from backdrop.learn import ranks


def progress(total: int, start: int, title: str) -> tqdm:
    """A bar over the iterations, of the first rank."""
    return tqdm(total=total, initial=start, desc=title, unit="it", mininterval=2, disable=ranks.rank() > 0)


@contextmanager
def open_live(folder: Path, history: Sequence[Mapping[str, float]]) -> Iterator[Live | None]:
    """DVCLive's curves in `folder`; what a resumed run had logged is logged again. None but on the first rank."""
    if ranks.rank():
        yield None
        return
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False)
    try:
        for row in history:
            _write_row(live, row)
        yield live
    finally:
        with writing(folder):
            live.end()


def _write_row(live: Live, row: Mapping[str, float]) -> None:
    with writing(live.dir):
        live.step = int(row["iteration"])
        for key, value in row.items():
            if key != "iteration":
                live.log_metric(key, value)
        live.make_summary()


def log_row(live: Live | None, row: dict[str, float], history: list) -> None:
    """One point of the curves, its numbers averaged over the ranks, each of which must call."""
    floats = [key for key, value in row.items() if isinstance(value, float)]
    means = ranks.means([row[key] for key in floats])
    row = row | dict(zip(floats, means, strict=True))
    history.append(row)
    if live is not None:
        _write_row(live, row)
