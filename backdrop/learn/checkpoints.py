"""Resume checkpoints, outside the stages' outputs."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch._functorch.config
from tqdm import tqdm

from backdrop.errors import WriteError
from backdrop.io.files import writing
from backdrop.learn import ranks


class Checkpoints:
    """The last state of a run, outside the stage's outputs (DVC deletes those before a run).

    A state is written to a temporary name and renamed, so that the previous one stays until the new one is complete.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"{key}.pt"

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None; the first rank reads, all get it."""
        return ranks.broadcast(self._read() if ranks.rank() == 0 else None)

    def _read(self) -> dict[str, Any] | None:
        """A file that cannot be read is set aside, not trusted."""
        if not self.path.exists():
            return None
        try:
            return torch.load(self.path, weights_only=True, map_location="cpu")
        except Exception as error:
            self.path.rename(self.path.with_suffix(".damaged"))
            tqdm.write(f"warning: {self.path} cannot be read ({error}); set aside, training starts anew")
            return None

    def save(self, state: Mapping[str, Any]) -> None:
        """By the first rank alone."""
        if ranks.rank():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        packed = io.BytesIO()  # writing itself, torch puts an error of its own in the place of the file's
        torch.save(dict(state), packed)
        try:
            with writing(self.path):
                with part.open("wb") as file:
                    file.write(packed.getbuffer())
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(self.path)
        except WriteError:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    def clear(self) -> None:
        """Remove it: the run is complete."""
        self.path.unlink(missing_ok=True)
