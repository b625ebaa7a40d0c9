"""The model card: ``model/README.md``, which says what a model is, as the hub shows it.

https://huggingface.co/docs/hub/model-cards describes its header. Names of rows and models are other
people's texts: they stand between backticks, where Markdown and HTML mean nothing.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.data.config import DataConfig
from src.data.datamodule import ChatDataModule
from src.data.sources import SPLITS, Source
from src.files import atomic
from src.hub import is_hub_name
from src.talk.model_folder import CARD
from src.training.config import TrainConfig
from src.training.plan import Plan
from src.training.provenance import versions
from src.training.purpose import Purpose
from src.training.record import RESULTS

MIT = "mit"
OURS_LICENCE = MIT  # of the embedded rows, as of all files of this project
OPENAI = "openai-community/"  # GPT-2 of any size, MIT as its pages say
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?", re.ASCII)
FIGURES = {"loss": "{:.4f}", "accuracy": "{:.2%}", "perplexity": "{:,.2f}"}
SCORED = {"validation": ("val",), "test": ("test",)}  # in metrics.json
PLACES = {"validation": ("best_val", "val"), "test": ("test",)}


class Card:
    """The card of a run's model: what is known before the run, and its figures so far.

    Args:
        config: of the run.
        data: its rows, packed.
        plan: what was decided.
        name: of the run.
        purpose: what it learned, in words.
    """

    def __init__(
        self, config: TrainConfig, data: ChatDataModule, plan: Plan, name: str, purpose: Purpose
    ):
        self.config, self.data, self.plan, self.name = config, data, plan, name
        self.purpose = purpose

    def write(self, folder: Path, figures: Mapping[str, float]) -> None:
        """Write the card into a model folder.

        Args:
            folder: of the model.
            figures: of these weights: ``val/loss``, ``test/accuracy``, ...; ``step``, if known.
        """
        atomic.write_text(folder / CARD, self.text(figures))

    def text(self, figures: Mapping[str, float]) -> str:
        """Return the card."""
        shown = {k: v for k, v in figures.items() if _is_finite(v)}
        sections = [
            f"# {code(self.name)}",
            self._what(),
            self.purpose.how,
            "## What it learned from\n\n" + self._rows(shown),
            "## Figures\n\n" + self._figures(shown),
            "## Settings\n\n" + _table(("setting", "value"), self._settings()),
            "## Limits\n\n" + self._limits(),
        ]
        return f"---\n{self._header(shown)}\n---\n\n" + "\n\n".join(sections) + "\n"

    @property
    def base(self) -> str | None:
        """The hub's name of the weights it began with; None: none of the hub's."""
        return _hub_name(self.config.model.pretrained)

    @property
    def sources(self) -> list[Source]:
        """The data sets that it learned from."""
        return self.data.source.sources

    def _header(self, figures: Mapping[str, float]) -> str:
        from huggingface_hub import EvalResult, ModelCardData

        names = [_hub_name(s.config.path) for s in self.sources if s.config.source == "hub"]
        datasets = list(dict.fromkeys(name for name in names if name))
        results = [
            EvalResult(
                task_type=self.purpose.task,
                dataset_type=datasets[0] if datasets else "rows",
                dataset_name=", ".join(datasets) or "rows of the run",
                dataset_split="test",
                metric_type=metric,
                metric_value=round(float(figures[key]), 6),
            )
            for metric, key in [
                *((m, f"test/{m}") for m in FIGURES),
                ("exact_match", "exact_match"),
            ]
            if key in figures
        ]
        licences = {_licence(source.config) for source in self.sources} | {self._base_licence()}
        fields: dict[str, Any] = {
            "license": MIT if licences == {MIT} else None,
            "language": "en" if all(s.config.source == "sample" for s in self.sources) else None,
            "library_name": "transformers",
            "pipeline_tag": self.purpose.task,
            "tags": ["gpt2", self.purpose.tag, "gpt2-chat"],
            "base_model": self.base,
            "datasets": datasets or None,
        }
        if results:
            fields |= {"model_name": self.name, "eval_results": results}
        return str(ModelCardData(**fields).to_yaml()).strip()

    def _base_licence(self) -> str | None:
        if self.config.continue_from is not None:
            return None  # what they learned before may have another
        if self.config.model.pretrained is None or (self.base or "").startswith(OPENAI):
            return MIT
        return None

    def _what(self) -> str:
        name = self.config.model.pretrained
        begun = "random weights" if name is None else _link(name, "") or code(Path(name).name)
        if self.config.continue_from is not None:
            origin = Path(self.config.continue_from)
            origin = origin.parent if origin.name in RESULTS else origin
            begun += f", went on from those of {code(origin.name)}, with what they had learned,"
        return (
            f"A GPT-2 of {self.plan.step.num_parameters:,} parameters that {self.purpose.does}. It "
            f"began with {begun} and was fine-tuned by gpt2-chat {versions()['gpt2-chat'] or ''}."
        ).replace(" .", ".")

    def _rows(self, figures: Mapping[str, float]) -> str:
        rows = [
            (_source(source.config), _licence(source.config) or _licence_of_others(source.config))
            for source in self.sources
        ]
        used, report = self.data.report.used, self.data.report
        counts = [
            (
                split,
                f"{used[split]:,}",
                _num_scored(figures, split, used[split]),
                f"{self.data.splits[split].num_tokens:,}",
            )
            for split in SPLITS
        ]
        left_out = ", ".join(
            f"{count:,} {code(reason)}" for reason, count in report.dropped.most_common(5)
        )
        lines = [
            _table(("rows", "licence"), rows),
            "",
            _table(("split", "conversations", "scored", "tokens"), counts),
            *(["", f"Left out of {report.read:,} rows read: {left_out}."] if left_out else []),
        ]
        return "\n".join(lines)

    def _figures(self, figures: Mapping[str, float]) -> str:
        rows = []
        for place, prefixes in PLACES.items():
            for metric, style in FIGURES.items():
                found = [figures[f"{p}/{metric}"] for p in prefixes if f"{p}/{metric}" in figures]
                if found:
                    rows.append((f"{place} {metric}", style.format(found[0])))
        if "exact_match" in figures:
            rows.append(("exact match on test prompts", f"{figures['exact_match']:.2%}"))
        step = figures.get("step", figures.get("best_step"))
        when = (
            ""
            if step is None
            else f" The weights are of step {int(step):,} of {self.plan.num_steps:,}."
        )
        if not rows:
            return "None yet."
        return _table(("figure", "value"), rows) + f"\n\n{self.purpose.figures}{when}"

    def _settings(self) -> list[tuple[str, str]]:
        config, plan = self.config, self.plan
        settings = {
            "objective": config.objective.name,
            "seed": config.seed,
            "optimizer steps": f"{plan.num_steps:,}",
            "batch": f"{config.batch_size} blocks of {plan.block_size} positions",
            "packing": "on" if config.data.packing else "off",
            "learning rate": f"{config.optimizer.learning_rate:g}, AdamW, cosine",
            "weight decay": config.optimizer.weight_decay,
            "dropout": config.model.dropout,
            "LoRA rank": config.lora.rank,
            "precision": plan.machine.precision,
        }
        rows = [(name, code(value)) for name, value in settings.items() if value is not None]
        libraries = ", ".join(f"{k} {v}" for k, v in versions().items() if v is not None)
        return [*rows, ("versions", code(libraries))]

    def _limits(self) -> str:
        positions = self.data.max_length or self.plan.block_size
        learned = (
            "It has seen no text but these rows, so it knows nothing else."
            if self.config.model.pretrained is None
            else "What GPT-2 read on the web, its biases included, is still in it."
        )
        return (
            f"- It reads and writes {positions:,} tokens at most, question and answer together.\n"
            f"- {learned}\n"
            f"- {self.purpose.limit}\n"
            "- Nothing was done to make its answers safe: it is for research, not for advice.\n"
            "- The figures hold for rows like those above, and for no others."
        )


def _num_scored(figures: Mapping[str, float], split: str, num_rows: int) -> str:
    """Return on how many conversations the figures of a split are, where that is known."""
    found = [figures[f"{p}/num_rows"] for p in SCORED.get(split, ()) if f"{p}/num_rows" in figures]
    if not found:
        return ""
    return f"{found[0]:,.0f}" if found[0] != num_rows else "all"


def code(value: object) -> str:
    """Return a text between backticks, in which it means nothing but itself, also in a table."""
    text = "".join(sign if sign.isprintable() else "?" for sign in str(value)).strip() or "?"
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    blank = " " if "`" in text else ""
    return f"{fence}{blank}{text}{blank}{fence}".replace("|", "\\|")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _source(config: DataConfig) -> str:
    if config.source == "sample":
        return "the embedded rows of gpt2-chat"
    if config.source == "hub":
        return _link(config.path, "datasets/") or code(config.path)
    paths = config.path if isinstance(config.path, list) else [config.path]
    names = [code(Path(str(path)).name or path) for path in paths]
    more = [f"{len(names) - 5:,} more"] if len(names) > 5 else []
    return ", ".join([*names[:5], *more])


def _licence(config: DataConfig) -> str | None:
    return OURS_LICENCE if config.source == "sample" else None


def _licence_of_others(config: DataConfig) -> str:
    return "as its page says" if _hub_name(config.path) and config.source == "hub" else "not known"


def _link(name: Any, kind: str) -> str | None:
    """Return a link to the hub's page of a model or data set; None: it is not the hub's."""
    found = _hub_name(name)
    return f"[{code(found)}](https://huggingface.co/{kind}{found})" if found else None


def _hub_name(name: Any) -> str | None:
    if not isinstance(name, str) or not is_hub_name(name) or Path(name).exists():
        return None
    return name if HUB_NAME.fullmatch(name) else None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
