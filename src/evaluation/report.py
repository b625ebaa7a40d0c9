"""``report.html``: the figures and the replies in one file that needs nothing beside it."""

import json
import math
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment

from src.evaluation.conclusions import difference_text, short_names
from src.evaluation.figures import KINDS, kind_of, written
from src.evaluation.intervals import Interval
from src.files import atomic

PAGE = Path(__file__).parent / "page"
BEST_OF = ("gold", "perfect", "right", "win_rate", "proxy", "kl")
MOST_ROWS = 2000  # on the page; results.json has all

# Figures in parts: their names begin so.
PARTS = {
    "loss/position_": "Loss by position in the response (tokens)",
    "loss/turn_": "Loss by turn",
    "exact_match/": "Exact match by label",
}


def write_report(
    folder: Path, results: Mapping[str, Any], pictures: Mapping[str, bytes] | None = None
) -> None:
    """Write ``results.json``, ``report.html`` and pictures (PNG, by file names) into ``folder``."""
    atomic.write_json(folder / "results.json", results)
    for name, content in (pictures or {}).items():
        atomic.write_bytes(folder / name, content)
    atomic.write_text(folder / "report.html", page(results, pictures))


def page(results: Mapping[str, Any], pictures: Mapping[str, bytes] | None = None) -> str:
    """Return the page; all text in it is escaped, whatever a model has said."""
    names = list(results["models"])
    rows = _shown(results["rows"])
    labels = {name: kind.label for name, kind in KINDS.items()}
    data = {
        "models": [
            {"name": name, "short": short}
            for name, short in zip(names, short_names(names), strict=True)
        ],
        "rows": rows,
        "labels": labels,
    }
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((PAGE / "page.html").read_text(encoding="utf-8"))
    return template.render(
        results=results,
        names=names,
        labels=labels,
        best_of_names=[labels[name].removesuffix(", drawn") for name in BEST_OF],
        short=dict(zip(names, short_names(names), strict=True)),
        tables=list(_tables(results)),
        num_shown=len(rows),
        best_of=_best_of(results),
        pictures=[b64encode(content).decode() for content in (pictures or {}).values()],
        # Only "<" could end the element that holds it.
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        style=(PAGE / "page.css").read_text(encoding="utf-8"),
        script=(PAGE / "page.js").read_text(encoding="utf-8"),
    )


def _shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that were asked; if none was, those that were scored."""
    asked = [row for row in rows if any("reply" in found for found in row["models"].values())]
    return (asked or rows)[:MOST_ROWS]


def _tables(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the tables of figures: title and lines, each a label and a cell for each model."""
    known = {name: None for figures in results["models"].values() for name in figures}
    yield {
        "title": "Figures",
        "lines": [_line(results, name, kind_of(name).label) for name in KINDS if name in known],
    }
    for prefix, title in PARTS.items():
        parts = [name for name in known if name.startswith(prefix)]
        if parts:
            lines = [_line(results, n, n.removeprefix(prefix).replace("_", " ")) for n in parts]
            yield {"title": title, "lines": lines}


def _line(results: Mapping[str, Any], figure: str, label: str) -> dict[str, Any]:
    compared = results["differences"].get(figure, {})
    best = {found["best"] for found in compared.values() if found["certain"]}
    cells = []
    for name, figures in results["models"].items():
        found = figures.get(figure)
        difference = compared.get(name)
        cells.append(
            {
                "value": _written(figure, found and found["value"]),
                "range": _range(figure, found),
                "difference": _difference(figure, difference),
                "is_best": name in best,
                "is_worse": bool(difference and difference["certain"]),
            }
        )
    return {"label": label, "cells": cells}


def _best_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a line for each n of the best of n, with a cell for each figure."""
    against = results.get("against")
    return [
        {
            "n": n,
            "cells": [
                {"value": _written(name, f["value"]), "range": _range(name, f)}
                for name in BEST_OF
                for f in [figures.get(name, {"value": None})]
            ],
        }
        for n, figures in (against["best_of"] if against else {}).items()
    ]


def _written(figure: str, value: float | None) -> str:
    return "-" if value is None else written(figure, value)


def _range(figure: str, found: Mapping[str, float | None] | None) -> str:
    low, high = (found or {}).get("low"), (found or {}).get("high")
    if low is None or high is None or low == high:
        return ""
    return f"{written(figure, low)} to {written(figure, high)}"


def _difference(figure: str, found: Mapping[str, Any] | None) -> str:
    if not found or found["value"] is None:
        return ""
    ends = [math.nan if found[end] is None else found[end] for end in ("low", "high")]
    if found["value"] == 0 and ends == [0, 0]:
        return "the same"
    return difference_text(figure, Interval(found["value"], *ends), interval="")
