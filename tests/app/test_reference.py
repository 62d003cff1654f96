"""docs/parameters.md is what the models say."""

from __future__ import annotations

import yaml

from backdrop.app.reference import CONFIG, PAGE, page
from backdrop.params import Params
from tests.small_pipeline import ROOT


def keys(values: dict, prefix: str = "") -> set[str]:
    found = set()
    for name, value in values.items():
        found |= keys(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}"}
    return found


def test_the_page_of_parameters_is_up_to_date() -> None:
    made = page(yaml.safe_load((ROOT / CONFIG).read_text()))
    assert (ROOT / PAGE).read_text() == made, "run `python -m backdrop.app.reference`"


def test_every_parameter_has_a_row_with_a_meaning() -> None:
    rows = [line.split(" | ") for line in (ROOT / PAGE).read_text().splitlines() if line.startswith("| `")]
    shown = {row[0].strip("| `") for row in rows}
    assert shown == keys(yaml.safe_load((ROOT / "params.yaml").read_text()))
    assert all(len(row) == 4 and len(row[3]) > 8 for row in rows), [row for row in rows if len(row[-1]) <= 8]
    assert set(Params.model_fields) - {"lambda_"} <= {name.split(".")[0] for name in shown} | {"lambda_"}
