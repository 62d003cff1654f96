"""Reading YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from backdrop.errors import BackdropError


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
