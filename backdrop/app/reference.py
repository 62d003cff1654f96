"""docs/parameters.md, made from the models that check params.yaml, their descriptions, and conf/config.yaml.

python -m backdrop.app.reference
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from backdrop.params import Params

PAGE = Path("docs/parameters.md")

CONFIG = Path("conf/config.yaml")

DESCRIPTIONS = Path(__file__).parents[1] / "config" / "descriptions.yaml"

_BOUNDS = (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))

_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true, false", "null": "null"}


def page(values: Mapping[str, Any]) -> str:
    """The page's Markdown.

    Args:
        values: the defaults, as conf/config.yaml holds them. Keys of its groups (data) have no default there.
    """
    schema = Params.model_json_schema(by_alias=True)
    meanings = yaml.safe_load(DESCRIPTIONS.read_text(encoding="utf-8"))
    lines = [
        "# Parameters",
        "",
        "Every key of `params.yaml`. Edit `conf/config.yaml` (or a file of its groups) and run `make params`, or give",
        "`dvc exp run -S key=value`. Defaults are those of `conf/config.yaml`; `scale`, `data`, `paper` change some.",
        "Made by `python -m backdrop.app.reference` from the models that check the file (`parameters.py` in each",
        "package) and from the words in `backdrop/config/descriptions.yaml`.",
        "",
    ]
    plain = {name: part for name, part in schema["properties"].items() if "$ref" not in part}
    lines += _key_table("", plain, schema, values, meanings)
    for name, part in schema["properties"].items():
        if "$ref" in part:
            section = _resolved(part, schema)
            lines += [f"## {name}", ""]
            lines += [meanings[name]["about"], ""]
            lines += _key_table(f"{name}.", section["properties"], schema, values.get(name) or {}, meanings)
    return "\n".join(lines).rstrip() + "\n"


def _resolved(part: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return schema["$defs"][part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part


def _key_table(
    prefix: str,
    fields: Mapping[str, Any],
    schema: Mapping[str, Any],
    values: Mapping[str, Any],
    meanings: Mapping[str, Any],
) -> Iterator[str]:
    yield "| key | default | values | meaning |"
    yield "|---|---|---|---|"
    section_meanings = meanings[prefix.removesuffix(".") or "general"]
    for name, field in fields.items():
        inner = _resolved(field, schema)
        if "properties" in inner:  # a section within a section
            for key, part in inner["properties"].items():
                default = (values.get(name) or {}).get(key, ...)
                yield _row(f"{prefix}{name}.{key}", part, schema, default, meanings[name][key])
        else:
            yield _row(f"{prefix}{name}", field, schema, values.get(name, ...), section_meanings[name])
    yield ""


def _row(key: str, field: Mapping[str, Any], schema: Mapping[str, Any], default: Any, meaning: str) -> str:
    shown = "" if default is ... or isinstance(default, str) and "${" in default else f"`{json.dumps(default)}`"
    return f"| `{key}` | {shown} | {_values(field, schema)} | {meaning.replace('|', chr(92) + '|')} |"


def _values(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What a key may hold, in a few words."""
    field = _resolved(field, schema)
    if "anyOf" in field:
        return ", or ".join(_values(part, schema) for part in field["anyOf"])
    if "enum" in field:
        return ", ".join(str(value) for value in field["enum"])
    if "const" in field:
        return str(field["const"])
    if field.get("type") == "array":
        parts = field.get("prefixItems")
        if parts:
            return "[" + ", ".join(_values(part, schema) for part in parts) + "]"
        return f"list of: {_values(field.get('items', {}), schema)}"
    bounds = [f"{sign} {field[name]:g}" for name, sign in _BOUNDS if name in field]
    return " ".join([_TYPES.get(str(field.get("type")), "any"), *bounds])


if __name__ == "__main__":
    PAGE.write_text(page(yaml.safe_load(CONFIG.read_text(encoding="utf-8"))), encoding="utf-8")
    print(f"wrote {PAGE}")
