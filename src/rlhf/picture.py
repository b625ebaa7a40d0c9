"""``rlhf.png``: gold of each step, and gold beside reward on the way from the reference."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.files import atomic

PICTURE = "rlhf.png"
DPI = 100  # 1,200 pixels wide
COLOURS = {"dpo": "tab:purple", "ppo": "tab:blue", "rloo": "tab:green"}
BEST_OF = "0.25"
FAR = 6  # square roots of nats, from where the scale is logarithmic


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the picture of the results of ``evaluate``."""
    figure = Figure(figsize=(12, 4.2), layout="constrained", dpi=DPI)
    bars, gold, reward = figure.subplots(1, 3, width_ratios=(1.1, 1, 1))
    _draw_steps(bars, results)
    _draw_way(gold, results, "gold", "gold: the labeller's true opinion")
    _draw_way(reward, results, "reward", "reward: what the reward model says")
    with atomic.file(path) as part:
        figure.savefig(part, format="png")


def _draw_steps(axes: Axes, results: dict[str, Any]) -> None:
    """Draw gold of each step: of replies at random, and of the likeliest."""
    steps = list(results["figures"])
    for number, (name, label, colour) in enumerate(
        (("gold", "at random", "tab:blue"), ("gold_greedy", "the likeliest", "tab:orange"))
    ):
        found = [(i, results["figures"][s].get(name)) for i, s in enumerate(steps)]
        there = [(i, each) for i, each in found if each and each["value"] is not None]
        values = np.array([each["value"] for _, each in there])
        ends = np.array([(each["low"], each["high"]) for _, each in there], dtype=float).T
        places = np.array([i for i, _ in there]) + 0.38 * (number - 0.5)
        errors = np.nan_to_num(np.abs(ends - values)) if len(there) else None
        axes.bar(places, values, 0.36, yerr=errors, label=label, color=colour, capsize=2)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xticks(range(len(steps)), [step.replace("_", " ") for step in steps])
    axes.set_title(f"gold of replies to {results['num_prompts']} test prompts")
    axes.legend(loc="best", fontsize=8)


def _draw_way(axes: Axes, results: dict[str, Any], name: str, title: str) -> None:
    """Draw a figure against the distance from the reference: of best of n, and of the policies."""
    best = [each for each in results["best_of"] if each.get("proxy" if name == "reward" else name)]
    if best:
        key = "proxy" if name == "reward" else name
        axes.plot(
            [max(each["kl"], 0) ** 0.5 for each in best],
            [each[key] for each in best],
            "^--",
            color=BEST_OF,
            label=f"best of 1 to {best[-1]['n']} (test)",
        )
    for step, curves in results["curves"].items():
        if {name, "kl"} <= curves.keys():
            distance = np.sqrt(np.maximum(curves["kl"]["values"], 0))
            axes.plot(
                distance,
                curves[name]["values"],
                ".-",
                color=COLOURS[step],
                label=f"{step}, as it learns (validation)",
            )
    metrics = results["metrics"]
    for step, colour in COLOURS.items():
        if metrics.get(f"{step}.kl") is not None and metrics.get(f"{step}.{name}") is not None:
            place = max(metrics[f"{step}.kl"], 0) ** 0.5
            value = metrics[f"{step}.{name}"]
            axes.plot(place, value, "*", color=colour, markersize=13, label=f"{step} (test)")
    if axes.get_xlim()[1] > FAR:
        axes.set_xscale("symlog", linthresh=3)
    axes.set(title=title, xlabel="distance from sft: square root of KL (nats a reply)")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=8)
