"""A dozen questions before and after training, and exact match over all test prompts.

Only conversations of one turn and without a system text are asked.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from src import atomic
from src.data.conversation import Conversation
from src.data.datamodule import ChatDataModule
from src.evaluation.exact_match import exact_match, nearest_neighbour
from src.model.gpt2 import GPT2
from src.talk.assistant import Assistant
from src.training.config import TrainConfig

log = logging.getLogger(__name__)

NUM_QUESTIONS = 12
TOKENS_BEFORE = 10  # an untrained model babbles: a taste is enough


class Showcase:
    """Only where ``exact_match`` is on, for data whose answers are short and exact."""

    def __init__(self, data: ChatDataModule, config: TrainConfig, run_folder: Path):
        self.data = data
        self.config = config
        self.path = run_folder / "before.json"
        self.test = [
            conversation
            for conversation in (data.conversations("test") if config.exact_match else [])
            if len(conversation.turns) == 1 and not conversation.system
        ]
        self.questions = _one_of_each_family(self.test)
        self.rows: list[tuple[str, str, str]] = []

    def ask_before(self, model: GPT2) -> None:
        """Write down what the model answers before it has learned anything."""
        if not self.questions:
            return
        prompts = [c.turns[0][0] for c in self.questions]
        generation = replace(self.config.generation, max_new_tokens=TOKENS_BEFORE)
        replies = Assistant(model, self.data.tokenizer).replies(prompts, generation)
        atomic.write_json(self.path, dict(zip(prompts, replies, strict=True)))

    def score(self, model: GPT2) -> dict[str, float]:
        """Return exact match over all test prompts, by family, and of the nearest neighbour."""
        if not self.test:
            return {}
        log.info("scoring %d test prompts", len(self.test))
        prompts = [c.turns[0][0] for c in self.test]
        expected = [c.turns[0][1] for c in self.test]
        families = [c.family for c in self.test]
        assistant = Assistant(model, self.data.tokenizer)
        readable = [prompt for prompt in prompts if assistant.can_read(prompt)]
        replies = dict(
            zip(readable, assistant.replies(readable, self.config.generation), strict=True)
        )
        answers = [replies.get(prompt, "") for prompt in prompts]  # too long to read: wrong
        before = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        questions = [c.turns[0][0] for c in self.questions]
        self.rows = [(p, before.get(p, ""), replies.get(p, "")) for p in questions]

        train = [c.turns[0] for c in self.data.conversations("train")]
        copied = nearest_neighbour([p for p, _ in train], [r for _, r in train], prompts)
        return {
            **exact_match(answers, expected, families),
            "exact_match_nearest_neighbour": exact_match(copied, expected, families)["exact_match"],
        }

    def show(self) -> None:
        """Print the dozen questions with the answers before and after training."""
        if not self.rows:
            return
        table = Table("question (never seen)", "before", "after", show_lines=True)
        for prompt, before, after in self.rows:
            table.add_row(*(_plain(text) for text in (prompt, before, after)))
        Console(stderr=True).print(table)


def _plain(text: str) -> str:
    """Return text without control characters or markup, on one line."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line.replace("[", r"\[")


def _one_of_each_family(test: list[Conversation]) -> list[Conversation]:
    first: dict[str, Conversation] = {}
    for conversation in test:
        first.setdefault(conversation.family, conversation)
    if len(first) == 1:
        return test[:NUM_QUESTIONS]
    return list(first.values())[:NUM_QUESTIONS]


def exact_match_lines(figures: Mapping[str, float]) -> list[str]:
    """Return exact match of model and baseline, over all and by family, three a line."""
    if "exact_match" not in figures:
        return []
    families = sorted(key for key in figures if key.startswith("exact_match/"))
    cells = [f"{key.removeprefix('exact_match/'):<14}{figures[key]:>6.1%}" for key in families]
    return [
        "",
        f"exact match on the test prompts: {figures['exact_match']:.1%}",
        f"copying the answer of the most similar training prompt: "
        f"{figures['exact_match_nearest_neighbour']:.1%}",
        *("   ".join(cells[row : row + 3]) for row in range(0, len(cells), 3)),
        "",
    ]
