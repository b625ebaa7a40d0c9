"""Two pictures of policies: reward against KL, and the judge's opinion against the reward model's.

Over-optimisation is where the reward model's opinion still rises and the judge's falls (Gao et al.,
arXiv:2210.10760).
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from src.evaluation.intervals import Interval

FRONTIER, GOLD_AND_PROXY = "frontier.png", "gold_and_proxy.png"  # in the output folder
DPI = 120
GOLD, PROXY, BEST = "#b8860b", "#3b6fb6", "0.45"

Figures = Mapping[str, Interval]
Point = tuple[str, Figures]  # what is written at it, and its figures


def pictures(
    policies: Mapping[str, Figures], reference: str, best_of: Mapping[int, Figures], judge: str
) -> dict[str, bytes]:
    """Return the pictures as PNG by their file names; none of figures that nobody knows.

    Args:
        policies: the figures of each, the reference's among them.
        reference: which it is; its KL is 0.
        best_of: those of the best of n of its replies.
        judge: for people.
    """
    nowhere = Interval(0.0, 0.0, 0.0)
    at = [(name, {"kl": nowhere, **f} if name == reference else f) for name, f in policies.items()]
    points: list[Point] = sorted(at, key=lambda point: point[1]["kl"].value)
    curve: list[Point] = [(f"best of {n}", figures) for n, figures in best_of.items()]
    found = {}
    if any("gold" in f or "proxy" in f for _, f in points):
        found[FRONTIER] = _png(_frontier(points, curve, judge))
    if any("gold" in f and "proxy" in f for _, f in points):
        found[GOLD_AND_PROXY] = _png(_gold_and_proxy(points, curve, judge))
    return found


def _frontier(points: Sequence[Point], curve: Sequence[Point], judge: str) -> Any:
    from matplotlib.figure import Figure

    kinds = [
        (name, label, colour, marker, there)
        for name, label, colour, marker in (
            ("gold", judge, GOLD, "o"),
            ("proxy", "reward model", PROXY, "s"),
        )
        if (there := [(text, f) for text, f in points if name in f])
    ]
    # A panel each: the two have scales of their own, so no height of one is a height of the other.
    size = (7, 1 + 4 * len(kinds))
    figure = Figure(figsize=size, layout="constrained", dpi=DPI)
    panels = figure.subplots(len(kinds), sharex=True, squeeze=False)[:, 0]
    for on, (name, label, colour, marker, there) in zip(panels, kinds, strict=True):
        on.set_ylabel(f"{label}'s opinion, mean")
        x, y = ([f[key].value for _, f in there] for key in ("kl", name))
        on.errorbar(x, y, _errors(there, name), _errors(there, "kl"), "none", alpha=0.4, c=colour)
        on.plot(x, y, marker, color=colour, label=label)
        best = [f for _, f in curve if name in f]
        if best:
            x, y = ([f[key].value for f in best] for key in ("kl", name))
            on.plot(x, y, "--", marker=".", color=colour, alpha=0.6, label=f"{label}, best of n")
        for number, (text, f) in enumerate(there):
            _write(on, text, f["kl"].value, f[name].value, below=number % 2 == 1)
    panels[-1].set_xlabel("KL to the reference (nats a reply)")
    panels[0].set_title("what a reply is worth, and how far it is from the reference")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _gold_and_proxy(points: Sequence[Point], curve: Sequence[Point], judge: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained", dpi=DPI)
    axes = figure.subplots()
    there = [(text, f) for text, f in points if "gold" in f and "proxy" in f]
    x, y = ([f[key].value for _, f in there] for key in ("proxy", "gold"))
    axes.errorbar(x, y, _errors(there, "gold"), _errors(there, "proxy"), "none", alpha=0.4, c=PROXY)
    axes.plot(x, y, "o", color=PROXY, label="policies")
    best = [(text, f) for text, f in curve if "gold" in f]
    if best:
        x, y = ([f[key].value for _, f in best] for key in ("proxy", "gold"))
        axes.plot(x, y, "--", marker=".", color=BEST, label="best of n of the reference")
        for text, f in best[1:]:
            _write(axes, text.removeprefix("best of "), f["proxy"].value, f["gold"].value, BEST)
    for number, (text, f) in enumerate(there):
        _write(axes, text, f["proxy"].value, f["gold"].value, below=number % 2 == 1)
    axes.set(xlabel="the reward model's opinion", ylabel=f"{judge}'s opinion")
    axes.set_title("what was learned from, and what was meant")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _errors(points: Sequence[Point], name: str) -> list[list[float]]:
    """Return how far the ends of intervals are from their values, as matplotlib wants them."""
    found = [f[name] for _, f in points]
    ends = [[f.value - f.low for f in found], [f.high - f.value for f in found]]
    return [[0.0 if math.isnan(end) else max(0.0, end) for end in side] for side in ends]


def _write(
    axes: Any, text: str, x: float, y: float, colour: str = "0.2", below: bool = False
) -> None:
    """Write at a point; neighbours above and below, so that they do not hide each other."""
    at = (5, -11) if below else (5, 4)
    axes.annotate(text, (x, y), xytext=at, textcoords="offset points", fontsize=8, color=colour)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
