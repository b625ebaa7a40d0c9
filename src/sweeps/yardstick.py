"""Settings that change the loss itself: the losses of two of their values cannot be compared."""

from collections.abc import Sequence
from pathlib import Path

from src.sweeps.names import short_keys, value_text
from src.sweeps.outcomes import Outcome
from src.wording.command_line import command

# What is measured, and of which rows or tokens; not how it is learned.
OBJECTIVE = (
    *("beta", "loss", "label_smoothing", "sft_weight", "margin", "centring", "reference"),
    *("reward", "reward_model", "kl_coef", "target_kl", "missing_end_penalty", "scale_scores"),
    *("temperature", "max_new_tokens", "max_prompt_tokens"),
)
DATA = (
    *("source", "path", "name", "sources", "train_split", "validation_split", "columns"),
    *("validation_fraction", "test_fraction", "share", "part", "max_rows", "supervise"),
)
MODEL = ("tokenizer", "vocab_size")
KEYS = {
    *("objective", "data"),
    *(f"objective.{key}" for key in OBJECTIVE),
    *(f"data.{key}" for key in DATA),
    *(f"model.{key}" for key in MODEL),
}
SCORE, ACCURACY = "best_val/score", "best_val/accuracy"
KL = "best_val/kl"


def measured_otherwise(key: str) -> bool:
    """Whether another value of a key makes the loss another figure."""
    return key in KEYS


def yardstick_sentences(keys: Sequence[str], ranked: Sequence[Outcome], folder: Path) -> list[str]:
    """Say which keys' values have losses that cannot be compared, and what can be."""
    shorts, said = short_keys(keys), []
    for key in keys:
        values = dict.fromkeys(value_text(run.values.get(key)) for run in ranked)
        if not measured_otherwise(key) or len(values) < 2:
            continue
        said.append(
            f"the loss itself is another figure for each {shorts[key]} ({', '.join(values)}): "
            f"their order by it says nothing; {_instead(key, ranked, folder)}"
        )
    return said


def _instead(key: str, ranked: Sequence[Outcome], folder: Path) -> str:
    """Return how runs can be compared that differ in a key."""
    if key.startswith("objective."):
        if all(SCORE in run.figures for run in ranked):
            same_scores = key not in ("objective.reward", "objective.reward_model")
            if same_scores:
                return "compare val/score beside val/kl, or replies: src.evaluate against=..."
            return "compare replies: src.evaluate against=..."
        if all(ACCURACY in run.figures for run in ranked):
            return "compare val/accuracy" + (
                " beside val/kl" if all(KL in run.figures for run in ranked) else ""
            )
    return f"compare on the same rows: {command('evaluate', model_path=folder)}"
