"""``results.json``: every figure with its interval, the differences, and each row.

    left_out     runs of a folder that was named which have no model, each with why
    models       by name, then figure: {value, low, high}
    about        by name: folder, seed, cut and notes
    differences  by figure, then name: {best, value, low, high, certain}: value minus the best's
    seeds        groups that differ in nothing but their seed, and the spread of each figure
    against      of against=: reference, judge, and what the best of n replies is worth; or null
    conclusions  sentences
    rows         what was asked, the reference, and by model the reply (of against= that at
                 temperature 1, too: sampled), the row's figures and num_scored_tokens: loss and
                 accuracy are means over so many

Numbers that are not finite are null.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from src.evaluation.against import Against
from src.evaluation.comparison import Comparison
from src.evaluation.conclusions import conclusions
from src.evaluation.evaluation import Judged
from src.evaluation.rows import EvaluationRow

# Of one row: what it has alone. Others are means over batches, or need all rows.
OF_ROWS = (
    *("loss", "bits_per_byte", "accuracy", "exact_match", "rouge_l", "chrf"),
    *("ended", "reply_words", "reply_tokens", "repetition"),
    *("gold", "gold_greedy", "proxy", "proxy_greedy", "win_rate", "kl"),
)


def build_results(
    facts: Mapping[str, Any],
    rows: Sequence[EvaluationRow],
    judged: Sequence[Judged],
    comparison: Comparison,
    against: Against | None = None,
) -> dict[str, Any]:
    """Return the whole of ``results.json``; ``facts`` stand at its beginning."""
    said = conclusions(judged, comparison, len(rows))
    names = [model.candidate.name for model in judged]
    return {
        **facts,
        "models": {
            name: {figure: found.json() for figure, found in figures.items()}
            for name, figures in zip(names, comparison.intervals, strict=True)
        },
        "about": {name: _about(model) for name, model in zip(names, judged, strict=True)},
        "differences": _differences(comparison, names),
        "seeds": _seeds(comparison, names),
        "against": None if against is None else against.results(),
        "conclusions": said if against is None else against.sentences() + said,
        "rows": _rows(rows, judged, against),
    }


def _about(model: Judged) -> dict[str, Any]:
    candidate = model.candidate
    return {
        "folder": None if candidate.folder is None else str(candidate.folder),
        "url": candidate.url,
        "seed": candidate.seed,
        "cut_at": model.max_length,
        "rows_cut": int(model.cut.sum()),
        "tokens": model.tokens and model.tokens[:16],
        "notes": model.notes,
    }


def _differences(comparison: Comparison, names: Sequence[str]) -> dict[str, Any]:
    return {
        figure: {
            names[i]: {
                "best": names[found.best],
                **found.interval.json(),
                "certain": found.certain,
                "num_rows": found.num_rows,
            }
            for i, found in sorted(models.items())
        }
        for figure, models in comparison.differences.items()
    }


def _seeds(comparison: Comparison, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "models": [names[i] for i in group],
            "figures": {
                figure: {
                    **found.mean.json(),
                    "standard_deviation": _number(found.deviation),
                    "num_seeds": found.num_seeds,
                }
                for figure, found in spreads.items()
            },
        }
        for group, spreads in zip(comparison.groups, comparison.spreads, strict=True)
    ]


def _rows(
    rows: Sequence[EvaluationRow], judged: Sequence[Judged], against: Against | None
) -> list[dict[str, Any]]:
    by_row = [
        {name: model.columns[name].by_row() for name in OF_ROWS if name in model.columns}
        for model in judged
    ]
    return [
        {
            "row": number + 1,
            "messages": [{"role": m.role, "content": m.content} for m in row.messages],
            "reference": row.reference,
            "labels": row.labels,
            "models": {
                model.candidate.name: {
                    **_reply(model, number),
                    **({} if against is None else against.of_row(model.candidate.name, number)),
                    **_num_scored(model, number),
                    **{
                        name: _number(values[number])
                        for name, values in figures.items()
                        if model.columns[name].used[number]
                    },
                }
                for model, figures in zip(judged, by_row, strict=True)
            },
        }
        for number, row in enumerate(rows)
    ]


def _reply(model: Judged, number: int) -> dict[str, Any]:
    answer = model.answers[number]
    if answer is None:
        return {}
    return {"reply": answer.text, "stop_reason": answer.stop_reason}


def _num_scored(model: Judged, number: int) -> dict[str, int]:
    if "loss" not in model.columns:
        return {}
    return {"num_scored_tokens": int(model.columns["loss"].values[number, 1])}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
