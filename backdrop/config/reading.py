"""Reading YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from backdrop.errors import BackdropError

Checked = TypeVar("Checked", bound=BaseModel)


class _PlainLoader(yaml.SafeLoader):
    """Plain YAML without aliases: a few lines of them can stand for more values than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read; write the value out", mark)
        return super().compose_node(parent, index)


def load_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no Unicode, or no date or number
        raise BackdropError(f"{path} is no YAML: {error}") from None


def read_checked(kind: type[Checked], path: Path) -> Checked:
    """A YAML file as the model `kind` describes it.

    Raises:
        BackdropError: it is no YAML, or holds a problem; names each key.
    """
    try:
        return kind.model_validate(load_yaml(path))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise BackdropError(f"{path}: {problems}") from None
