"""The table of three seeds in the README is that of the figures that are kept."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "notebooks/preferences/metrics.json"
PAGE = ROOT / "src/objectives/README.md"


def test_the_table_of_the_readme_is_that_of_the_figures():
    seeds = json.loads(KEPT.read_text(encoding="utf-8"))["seeds"]

    def each(name: str, form: str, scale: float = 1) -> str:
        values = [metrics[name] for metrics in seeds.values()]
        return " / ".join("" if v is None else format(scale * v, form) for v in values)

    page = PAGE.read_text(encoding="utf-8")
    for step in ("sft", "best_of_16", "dpo", "ppo", "rloo"):
        title = "best of 16 by the reward model" if step == "best_of_16" else step
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {title} | ")]
        cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
        assert cells[0] == each(f"{step}.gold", ".2f")
        if step != "best_of_16":
            assert cells[1] == each(f"{step}.gold_greedy", ".2f")
            assert cells[2] == each(f"{step}.perfect_greedy", ".0f", 100) + "%"
            assert cells[3] == each(f"{step}.right_greedy", ".0f", 100) + "%"
        if step != "sft":
            assert cells[4] == each(f"{step}.win_rate_against_sft", ".0f", 100) + "%"
        if step not in ("sft", "best_of_16"):
            assert cells[5] == each(f"{step}.kl", ".1f")
    for name in ("accuracy", "accuracy_ceiling", "gold_order"):
        assert each(f"reward.{name}", ".1f", 100) + "%" in page
    assert each("reward.calibration_error", ".3f") in page
