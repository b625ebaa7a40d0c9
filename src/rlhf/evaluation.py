"""What each step has gained, by the labeller's true taste: looked at once, when all is learned.

Nothing here is read by a step: gold of test prompts chooses no weights and no values.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.data.config import DataConfig
from src.evaluation.intervals import Interval
from src.evaluation.judges import GOLD, choose_judge
from src.evaluation.policies import Policies, judge_policies
from src.evaluation.policy_replies import Drawing
from src.evaluation.progress import Progress
from src.evaluation.replies import choose_rows
from src.evaluation.rows import EvaluationRow, rows_of_split
from src.files import atomic
from src.files.json_file import read_settings
from src.rlhf.config import FROM_REPLIES, REWARD, SFT, STEPS
from src.rlhf.pipeline import EVALUATION, Pipeline
from src.rlhf.record import METRICS, RESULTS
from src.rlhf.reward_figures import reward_figures
from src.training.curves import Curve, read_curves

FIGURES = {  # ours -> of a policy
    "gold": "gold",
    "gold_greedy": "gold_greedy",
    "perfect": "perfect",
    "perfect_greedy": "perfect_greedy",
    "right": "right",
    "right_greedy": "right_greedy",
    "win_rate_against_sft": "win_rate",
    "win_rate_against_sft_greedy": "win_rate_greedy",
    "kl": "kl",
    "reward": "proxy",
}
OF_ITSELF = {"win_rate_against_sft": 0.5, "win_rate_against_sft_greedy": 0.5, "kl": 0.0}
NUM_RESAMPLES = 2000
NUM_SLOTS = 128

Results = dict[str, Any]


def evaluate(pipeline: Pipeline, data: DataConfig) -> Results:
    """Return the results of a pipeline whose steps are complete; write them where they are not.

    Args:
        pipeline: its steps.
        data: the demonstrations; their test prompts are asked.
    """
    path = pipeline.folder / RESULTS
    if path.exists() and (pipeline.folder / METRICS).exists():
        return read_settings(path)
    with pipeline.timed(EVALUATION), pipeline.cores():
        results = _results(pipeline, data)
    seconds = pipeline.seconds()
    results["metrics"] |= {f"{step}.seconds": value for step, value in seconds.items()}
    results["metrics"]["seconds"] = sum(seconds.values())
    atomic.write_json(path, results)
    atomic.write_json(pipeline.folder / METRICS, results["metrics"])
    return results


def _results(pipeline: Pipeline, data: DataConfig) -> Results:
    config, places = pipeline.config, pipeline.places
    every = rows_of_split(data, "test")[0]
    rows = [every[i] for i in choose_rows(every, config.evaluation.max_prompts, config.seed)]
    drawing = Drawing(config.rank.max_new_tokens, NUM_SLOTS, config.seed, pipeline.device)
    policies = {step: str(places.model(step)) for step in config.steps if is_policy(step)}
    has_reward = REWARD in config.steps
    with Progress(len(policies), "judging: models") as progress:
        found = judge_policies(
            policies,
            (SFT, policies[SFT]),
            rows,
            choose_judge(GOLD, rows),
            drawing,
            reward_model=str(places.reward_model) if has_reward else None,
            best_of_most=config.evaluation.best_of if has_reward else 0,
            progress=progress.add,
        )
    figures = _figures(found, config.evaluation.best_of, config.seed)
    metrics = flat(figures)
    if has_reward:
        run = read_settings(places[REWARD] / METRICS)
        of_reward = reward_figures(
            places.reward_model, places.rankings("test"), run, config.rank.noise
        )
        metrics |= {f"{REWARD}.{name}": value for name, value in of_reward.items()}
    curves = {s: policy_curves(places[s]) for s in config.steps if s in FROM_REPLIES}
    for step, curve in curves.items():
        metrics |= {f"{step}.{name}": value for name, value in peak_figures(curve).items()}
    return {
        "settings": asdict(config),
        "start": pipeline.record.start,
        "facts": pipeline.record.facts,
        "num_prompts": len(rows),
        "metrics": metrics,
        "figures": {step: {k: v.json() for k, v in f.items()} for step, f in figures.items()},
        "best_of": _best_of(found, config.seed),
        "curves": {
            step: {k: c._asdict() for k, c in each.items()} for step, each in curves.items()
        },
        "questions": questions(found, rows, config.evaluation.num_questions),
    }


def is_policy(step: str) -> bool:
    """Whether what a step makes talks."""
    return step not in ("rank", REWARD)


def _figures(found: Policies, best_of: int, seed: int) -> dict[str, dict[str, Interval]]:
    """Return the figures of each step with their intervals, by our names; best of n among them."""
    named = {
        step: {ours: each[theirs] for ours, theirs in FIGURES.items() if theirs in each}
        for step, each in found.figures(NUM_RESAMPLES, seed).items()
    }
    named[SFT] |= {name: Interval(value, value, value) for name, value in OF_ITSELF.items()}
    if found.best_of:
        best = found.best_of_figures(NUM_RESAMPLES, seed)[best_of]
        named[f"best_of_{best_of}"] = {
            ours: best[theirs] for ours, theirs in FIGURES.items() if theirs in best
        }
    order = [SFT, f"best_of_{best_of}", *STEPS]
    return dict(sorted(named.items(), key=lambda item: order.index(item[0])))


def flat(figures: dict[str, dict[str, Interval]]) -> dict[str, float | None]:
    """Return the values under ``step.figure``; None: there is no such figure of that step."""
    return {
        f"{step}.{name}": each[name].json()["value"] if name in each else None
        for step, each in figures.items()
        for name in FIGURES
    }


def _best_of(found: Policies, seed: int) -> list[dict[str, float | None]]:
    """Return gold, reward and KL of the best of 1, 2, 4 ... replies."""
    return [
        {"n": n, **{k: v.json()["value"] for k, v in figures.items()}}
        for n, figures in found.best_of_figures(NUM_RESAMPLES, seed).items()
    ]


def policy_curves(folder: Path) -> dict[str, Curve]:
    """Return gold, reward and KL of validation replies over the steps of a run."""
    curves = read_curves(folder)
    names = {"gold": "val/gold", "reward": "val/score", "kl": "val/kl"}
    return {ours: curves[theirs] for ours, theirs in names.items() if theirs in curves}


def peak_figures(curves: dict[str, Curve]) -> dict[str, float]:
    """Return gold and reward of validation replies where gold was highest, and at the end."""
    if not {"gold", "reward"} <= curves.keys():
        return {}
    gold, reward = (curves[name].values for name in ("gold", "reward"))
    peak = max(range(len(gold)), key=gold.__getitem__)
    return {
        "val_gold_peak": gold[peak],
        "val_gold_end": gold[-1],
        "val_reward_at_peak": reward[peak],
        "val_reward_end": reward[-1],
    }


def questions(found: Policies, rows: list[EvaluationRow], number: int) -> list[dict[str, Any]]:
    """Return the likeliest replies of each step to some questions, spread over all."""
    chosen = sorted({i * len(rows) // max(number, 1) for i in range(number)})
    return [
        {
            "prompt": rows[i].messages[-1].content,
            "replies": {step: policy.greedy[i] for step, policy in found.by_name.items()},
        }
        for i in chosen
    ]
