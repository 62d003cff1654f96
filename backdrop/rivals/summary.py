"""The table of all cells: figures for DVC, the page's table, and a contact sheet.

Only what was run is in it; a cell that failed is marked, with its reason below the table.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backdrop.draw import TRUTH, Picture, draw_mask, frame_sheet
from backdrop.errors import BackdropError
from backdrop.io.files import atomic_path
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.masks import MaskArchive, split_truth
from backdrop.rivals.cells import cell_folder, manifest_of
from backdrop.rivals.footage import FOOTAGE, Manifest
from backdrop.rivals.ours import OwnScores, own_scores
from backdrop.rivals.registry import RIVALS

METRICS = Path("metrics/rivals.json")
RIVALS_PAGE = Path("docs/rivals.md")
RIVALS_SHEET = Path("docs/images/rivals.jpg")

BEGIN, END = "<!-- rivals: begin -->", "<!-- rivals: end -->"
"""The table stands between these lines of the page; `python -m backdrop.rivals table` writes it."""

MEASURED = ("J", "F", "J_oracle", "F_oracle")

SHEET_SEQUENCES = 4
"""Sequences on the contact sheet."""

Results = dict[str, dict[str, list[dict[str, Any]]]]
"""Footage -> rival -> the results of its sequences."""


def write_summary() -> None:
    """Write `METRICS`, the table in `RIVALS_PAGE`, and `RIVALS_SHEET`.

    Raises:
        BackdropError: no manifest of the footage is there, or the page lacks the markers.
    """
    manifests = {name: manifest_of(name) for name in FOOTAGE}
    found = results_of(manifests)
    METRICS.parent.mkdir(exist_ok=True)
    with atomic_path(METRICS) as temporary:
        temporary.write_text(json.dumps(pooled_cells(found), indent=2) + "\n", encoding="utf-8")
    text = RIVALS_PAGE.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise BackdropError(
            f"{RIVALS_PAGE} lacks the lines {BEGIN} and {END}, between which the table goes: put them back"
        )
    inside = re.compile(f"{BEGIN}.*{END}", re.DOTALL)
    made = f"{BEGIN}\n\n{tables(found, manifests)}\n\n{END}"
    with atomic_path(RIVALS_PAGE) as temporary:
        temporary.write_text(inside.sub(lambda _: made, text), encoding="utf-8")
    sheet = contact_sheet_of_rivals(found, manifests)
    RIVALS_SHEET.parent.mkdir(exist_ok=True)
    with atomic_path(RIVALS_SHEET) as temporary:
        Image.fromarray(sheet).save(temporary, "JPEG", quality=85)


def results_of(manifests: dict[str, Manifest]) -> Results:
    """The results that are there, in the order of registry and footage."""
    found: Results = {}
    for footage, manifest in manifests.items():
        found[footage] = {}
        for rival in RIVALS:
            paths = [cell_folder(rival, footage) / f"{name}.json" for name in manifest.sequences]
            rows = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
            if rows:
                found[footage][rival] = rows
    return found


def pooled_cells(found: Results) -> dict[str, dict[str, dict[str, float]]]:
    """Footage -> rival -> means over the sequences that were scored, how many these are, and how many failed."""
    return {
        footage: {RIVALS[rival].title: _pooled_cell(rows) for rival, rows in rivals.items()}
        for footage, rivals in found.items()
        if rivals
    }


def _pooled_cell(rows: list[dict[str, Any]]) -> dict[str, float]:
    scored = [row for row in rows if "J" in row]
    cell: dict[str, float] = {key: float(np.mean([row[key] for row in scored])) for key in MEASURED if scored}
    cell["cpu_minutes"] = float(np.mean([row["cpu_minutes"] for row in rows]))
    cell["memory_mb"] = float(max(row["memory_mb"] for row in rows))
    return cell | {"sequences": len(scored), "failed": sum("failed" in row for row in rows)}


def tables(found: Results, manifests: dict[str, Manifest]) -> str:
    """Markdown: a table for each footage; a rival that was not run yet has no row."""
    parts = []
    for footage, rivals in found.items():
        if manifests[footage].reason:
            parts.append(f"**{footage}**: no frames were at hand.")
            continue
        if not rivals:
            continue
        ours = own_scores(footage)
        lines = [f"**{footage}**, {len(manifests[footage].sequences)} sequences", ""]
        lines += ["| rival | labels by people | J / F | J / F, oracle threshold | CPU min | MB | sequences |"]
        lines += ["|---|---|---|---|---|---|---|", *(_table_row(rival, rows, ours) for rival, rows in rivals.items())]
        lines += [_own_row(ours, list(manifests[footage].sequences))] if ours else []
        notes = [note for rival, rows in rivals.items() for note in _notes(rival, rows)]
        parts.append("\n".join([*lines, *(["", *notes] if notes else [])]))
        if ours:
            parts.append(sequence_table(rivals, list(manifests[footage].sequences), ours))
    return "\n\n".join(parts)


def sequence_table(rivals: dict[str, list[dict[str, Any]]], sequences: list[str], ours: dict[str, OwnScores]) -> str:
    """Markdown: J of each sequence by each rival, bold where it is above ours; a dash where it was not run."""
    names = [name for name in sequences if any(row["sequence"] == name for rows in rivals.values() for row in rows)]
    lines = ["J by sequence; bold: above ours.", ""]
    lines += ["| sequence | ours | " + " | ".join(RIVALS[rival].title for rival in rivals) + " |"]
    lines += ["|" + "---|" * (2 + len(rivals))]
    for name in names:
        own = ours.get(name)
        cells = [f"{own.J:.2f}" if own else "-"]
        for rows in rivals.values():
            found = next((row["J"] for row in rows if row["sequence"] == name and "J" in row), None)
            shown = "-" if found is None else f"{found:.2f}"
            cells.append(f"**{shown}**" if own and found is not None and found > own.J else shown)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _own_row(ours: dict[str, OwnScores], sequences: list[str]) -> str:
    own = [ours[name] for name in sequences if name in ours]
    if not own:
        return "| **ours** | no | not run |  |  |  | 0 |"
    spent = [one.cpu_minutes for one in own if one.cpu_minutes is not None]
    minutes = f"{np.mean(spent):.1f}" if spent else ""
    pair = f"{np.mean([one.J for one in own]):.3f} / {np.mean([one.F for one in own]):.3f}"
    return f"| **ours** | no | {pair} |  | {minutes} |  | {len(own)} |"


def _own_on_the_same(rows: list[dict[str, Any]], ours: dict[str, OwnScores]) -> str:
    """Ours on the sequences that a rival was scored on, where these are fewer than all of ours."""
    own = [ours[row["sequence"]] for row in rows if "J" in row and row["sequence"] in ours]
    if not own or len(own) == len(ours):
        return ""
    return f" (ours there: {np.mean([one.J for one in own]):.3f} / {np.mean([one.F for one in own]):.3f})"


def _table_row(rival: str, rows: list[dict[str, Any]], ours: dict[str, OwnScores]) -> str:
    cell = _pooled_cell(rows)
    pairs = [
        f"{cell[f'J{kind}']:.3f} / {cell[f'F{kind}']:.3f}" if "J" in cell else "failed" for kind in ("", "_oracle")
    ]
    counted = f"{cell['sequences']}" + (f", {cell['failed']} failed" if cell["failed"] else "")
    counted += _own_on_the_same(rows, ours)
    mark = "" if RIVALS[rival].supervised == "no" else " (supervised)"
    shown = [RIVALS[rival].title + mark, RIVALS[rival].supervised, *pairs, f"{cell['cpu_minutes']:.2f}"]
    return "| " + " | ".join([*shown, f"{cell['memory_mb']:.0f}", counted]) + " |"


def _notes(rival: str, rows: list[dict[str, Any]]) -> list[str]:
    """Reasons, each once, with its sequences."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reason = row.get("failed") or row.get("note")
        if reason:
            reasons.setdefault(reason, []).append(row["sequence"])
    return [f"- {RIVALS[rival].title}, {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def contact_sheet_of_rivals(found: Results, manifests: dict[str, Manifest]) -> Picture:
    """The middle frame of some sequences, those that most rivals have: truth, then each rival's mask with its J."""
    rows: dict[str, list[tuple[str, Picture]]] = {}
    for footage, name in _most_run(found):
        archive = FrameArchive(Path(manifests[footage].frames) / f"{name}.zip")
        shown = [t for t in range(len(archive)) if archive.has_mask(t)] or list(range(len(archive)))
        t = shown[len(shown) // 2]
        image, stored = archive.image(t), archive.mask(t)
        pictures = [("truth", image if stored is None else draw_mask(image, split_truth(stored)[0], TRUTH))]
        for rival, results in found[footage].items():
            result = next((one for one in results if one["sequence"] == name and "failed" not in one), None)
            if result is not None:
                soft = MaskArchive(cell_folder(rival, footage) / f"{name}.zip").gray(t) / 255
                value = f"  J {result['J']:.2f}" if "J" in result else ""
                pictures.append((f"{RIVALS[rival].title}{value}", draw_mask(image, soft > result["threshold"])))
        rows[f"{name} ({footage})"] = pictures
    return frame_sheet(rows, 200)


def _most_run(found: Results) -> list[tuple[str, str]]:
    """(footage, sequence) of `SHEET_SEQUENCES` sequences that most rivals have, footage by turns."""
    counts: dict[tuple[str, str], int] = {}
    for footage, rivals in found.items():
        for rows in rivals.values():
            for row in rows:
                key = (footage, str(row["sequence"]))
                counts[key] = counts.get(key, 0) + ("failed" not in row)
    places = dict.fromkeys(found, 0)
    ranked = []
    for key in sorted(counts, key=lambda one: -counts[one]):
        ranked.append((places[key[0]], key))
        places[key[0]] += 1
    return [key for _, key in sorted(ranked, key=lambda one: one[0])[:SHEET_SEQUENCES]]
