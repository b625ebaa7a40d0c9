"""A dozen questions before and after training, and exact match over all test conversations."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from src import atomic, phases
from src.data.conversation import Conversation
from src.data.datamodule import ChatDataModule
from src.evaluation import held_out
from src.evaluation.exact_match import exact_match, nearest_neighbour
from src.model.gpt2 import GPT2
from src.progress import Progress
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
        self.test = data.conversations("test") if config.exact_match else []
        self.questions = _one_of_each_family(self.test)
        self.rows: list[tuple[Conversation, str, str]] = []

    def ask_before(self, model: GPT2) -> None:
        """Write down what the model answers before it has learned anything."""
        if not self.questions:
            return
        generation = replace(self.config.generation, max_new_tokens=TOKENS_BEFORE)
        asked = [held_out.question(c) for c in self.questions]
        replies = Assistant(model, self.data.tokenizer).replies(asked, generation)
        texts = map(held_out.text, self.questions)
        atomic.write_json(self.path, dict(zip(texts, replies, strict=True)))

    def score(self, model: GPT2) -> dict[str, float]:
        """Return exact match over all test conversations, by label, and of the nearest neighbour.

        The last reply of each is scored, as `held_out` says; the nearest neighbour is that of the
        whole conversation before it.
        """
        if not self.test:
            return {}
        with phases.phase("exact_match"):
            return self._score(model)

    def _score(self, model: GPT2) -> dict[str, float]:
        log.info("scoring %d test conversations", len(self.test))
        assistant = Assistant(model, self.data.tokenizer)
        asked = [held_out.question(c) for c in self.test]
        readable = [i for i, messages in enumerate(asked) if assistant.can_read(messages)]
        with Progress(len(readable), "answering", "test prompts") as progress:
            replies = assistant.replies(
                [asked[i] for i in readable], self.config.generation, progress=progress.add
            )
        reply_of = dict(zip(readable, replies, strict=True))
        answers = [reply_of.get(i, "") for i in range(len(asked))]  # too long to read: wrong
        before = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        self.rows = [
            (c, before.get(held_out.text(c), ""), answers[self.test.index(c)])
            for c in self.questions
        ]

        texts, responses = zip(*held_out.taught(self.data.conversations("train")), strict=True)
        copied = nearest_neighbour(texts, responses, [held_out.text(c) for c in self.test])
        expected = [held_out.reference(c) for c in self.test]
        labels = [held_out.labels(c) for c in self.test]
        return {
            **exact_match(answers, expected, labels),
            "exact_match_nearest_neighbour": exact_match(copied, expected, labels)["exact_match"],
        }

    def show(self) -> None:
        """Print the dozen questions with the answers before and after training."""
        if not self.rows:
            return
        table = Table("question (never seen)", "before", "after", show_lines=True)
        for conversation, before, after in self.rows:
            table.add_row(_told(conversation), _plain(before), _plain(after))
        Console(stderr=True).print(table)


def _told(conversation: Conversation) -> str:
    """Return the last question, after what was said before it in dim lines."""
    signs = {"system": "system: ", "user": "", "assistant": "> "}
    *before, last = held_out.question(conversation)
    lines = [f"[dim]{signs[m.role]}{_plain(m.content)}[/dim]" for m in before]
    return "\n".join([*lines, _plain(last.content)])


def _plain(text: str) -> str:
    """Return text without control characters or markup, on one line."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line.replace("[", r"\[")


def _one_of_each_family(test: list[Conversation]) -> list[Conversation]:
    """Return at most a dozen, of families far apart, short ones where there are some."""
    by_family: dict[str, list[Conversation]] = {}
    for conversation in test:
        by_family.setdefault(conversation.family, []).append(conversation)
    if len(by_family) == 1:
        return test[:NUM_QUESTIONS]
    shortest = [min(family, key=_too_many_turns) for family in by_family.values()]
    every = max(1.0, len(shortest) / NUM_QUESTIONS)
    return [shortest[int(i * every)] for i in range(min(NUM_QUESTIONS, len(shortest)))]


def _too_many_turns(conversation: Conversation) -> int:
    return max(0, len(conversation.turns) - 2)


def exact_match_lines(figures: Mapping[str, float]) -> list[str]:
    """Return exact match of model and baseline, over all and by family, three a line."""
    if "exact_match" not in figures:
        return []
    families = sorted(key for key in figures if key.startswith("exact_match/"))
    cells = [f"{key.removeprefix('exact_match/'):<20}{figures[key]:>6.1%}" for key in families]
    return [
        "",
        f"exact match on the test conversations: {figures['exact_match']:.1%}",
        f"copying the answer of the most similar training conversation: "
        f"{figures['exact_match_nearest_neighbour']:.1%}",
        *("   ".join(cells[row : row + 3]) for row in range(0, len(cells), 3)),
        "",
    ]
