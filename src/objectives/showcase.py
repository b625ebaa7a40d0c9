"""Questions before and after training, and exact match over all test conversations."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from src import phases
from src.data.conversation import Conversation
from src.data.datamodule import ChatDataModule
from src.errors import UserError
from src.evaluation import held_out
from src.evaluation.exact_match import exact_match, nearest_neighbour
from src.files import atomic
from src.model.gpt2 import GPT2
from src.objectives.reply_table import Answered, as_json, as_markdown, print_table
from src.progress import Progress
from src.talk.assistant import Assistant
from src.talk.messages import Message
from src.training.config import TrainConfig
from src.training.record import read_object

log = logging.getLogger(__name__)

NUM_QUESTIONS = 12  # of the test rows, and of the sample prompts, at most
NUM_CANDIDATES = 96  # test rows among which the dozen are looked for
SHORT = 400  # characters of a question that costs little
TOKENS_BEFORE = 10  # an untrained model babbles: a taste is enough
TOKENS_AFTER = 64
MOST_BYTES = 2**24  # of before.json: a dozen long conversations are far less
BEFORE, REPLIES = "before.json", "replies"  # in the run folder


class Showcase:
    """The sample prompts and a dozen test rows, asked before and after training.

    Where ``exact_match`` is on, all test conversations are asked in the end, and scored. It is for
    data whose answers are short and exact.

    Args:
        data: whose test rows are asked.
        config: how replies are decoded.
        run_folder: where ``before.json``, ``replies.json`` and ``replies.md`` go.
        prompts: of a person, who has no reference for them.
        asks_rows: whether test rows are asked, and scored; if not, the model can talk before
            training, too, and is heard in full.
    """

    on_terminal: ClassVar[bool] = True  # whether the table is shown; the files are always written

    def __init__(
        self,
        data: ChatDataModule,
        config: TrainConfig,
        run_folder: Path,
        prompts: Sequence[str] = (),
        asks_rows: bool = True,
    ):
        self.data = data
        self.config = config
        self.generation = config.generation and config.generation.unpacked()
        self.folder = run_folder
        self.prompts = list(prompts)[:NUM_QUESTIONS]
        self.asks_rows = asks_rows
        self.rows: list[Answered] = []

    @cached_property
    def test(self) -> list[Conversation]:
        """All test conversations, where all are asked."""
        is_scored = self.asks_rows and self.config.exact_match
        return self.data.conversations("test") if is_scored else []

    @cached_property
    def questions(self) -> list[Conversation]:
        """A dozen test conversations, from all over them."""
        if not self.asks_rows:
            return []
        if self.config.exact_match:
            return _one_of_each_family(self.test)
        found = self.data.some_conversations("test", NUM_CANDIDATES)
        return sorted(found, key=lambda c: len(held_out.text(c)) > SHORT)[:NUM_QUESTIONS]

    def ask_before(self, model: GPT2) -> None:
        """Write down what the model answers before it has learned anything."""
        asked = self._asked()
        if asked:
            assistant = Assistant(model, self.data.tokenizer)
            most = TOKENS_BEFORE if self.asks_rows else TOKENS_AFTER
            replies = self._replies(assistant, asked, most)
            atomic.write_json(self.folder / BEFORE, replies)

    def score(self, model: GPT2) -> dict[str, float]:
        """Ask the best weights; return exact match, where that is wanted."""
        assistant = Assistant(model, self.data.tokenizer)
        figures: dict[str, float] = {}
        replies: dict[str, str] = {}
        if self.test:
            with phases.phase("exact_match"):
                figures, replies = self._exact_match(assistant)
        asked = self._asked()
        unknown = {text: messages for text, messages in asked.items() if text not in replies}
        replies = {**replies, **self._replies(assistant, unknown, TOKENS_AFTER)}
        before = self._before()
        references = {held_out.text(c): held_out.reference(c) for c in self.questions}
        self.rows = [
            Answered(messages, str(before.get(text, "")), replies[text], references.get(text))
            for text, messages in asked.items()
            if text in replies
        ]
        if self.rows:
            atomic.write_text(self.folder / f"{REPLIES}.json", as_json(self.rows))
            atomic.write_text(self.folder / f"{REPLIES}.md", as_markdown(self.rows))
        return figures

    def show(self) -> None:
        """Print the questions with the answers before and after training."""
        if self.rows and self.on_terminal:
            print_table(self.rows)

    def _before(self) -> dict[str, Any]:
        """Return what ``ask_before`` has written; nothing, and say so, if it cannot be read."""
        path = self.folder / BEFORE
        try:
            return read_object(path, MOST_BYTES) if path.exists() else {}
        except UserError as error:
            log.warning("warning: %s: the replies from before training are not shown", error)
            return {}

    def _asked(self) -> dict[str, list[Message]]:
        """Return the messages that are asked, by their text."""
        of_rows = {held_out.text(c): held_out.question(c) for c in self.questions}
        return {prompt: [Message("user", prompt)] for prompt in self.prompts} | of_rows

    def _replies(
        self, assistant: Assistant, asked: Mapping[str, list[Message]], most: int
    ) -> dict[str, str]:
        """Return the replies to what the model has room for, each of ``most`` tokens or less."""
        readable = {text: m for text, m in asked.items() if assistant.can_read(m)}
        if not readable:
            return {}
        own = self.generation
        generation = own and replace(own, max_new_tokens=min(most, own.max_new_tokens))
        replies = assistant.replies(list(readable.values()), generation)
        return dict(zip(readable, replies, strict=True))

    def _exact_match(self, assistant: Assistant) -> tuple[dict[str, float], dict[str, str]]:
        """Return exact match over all test conversations, by label, and of the nearest neighbour.

        The last reply of each is scored, as `held_out` says; the nearest neighbour is that of the
        whole conversation before it. The second value are the replies, by what was asked.
        """
        log.info("scoring %d test conversations", len(self.test))
        asked = [held_out.question(c) for c in self.test]
        readable = [i for i, messages in enumerate(asked) if assistant.can_read(messages)]
        with Progress(len(readable), "answering", "test prompts") as progress:
            replies = assistant.replies(
                [asked[i] for i in readable], self.generation, progress=progress.add
            )
        reply_of = dict(zip(readable, replies, strict=True))
        answers = [reply_of.get(i, "") for i in range(len(asked))]  # too long to read: wrong

        texts, responses = zip(*held_out.taught(self.data.conversations("train")), strict=True)
        questions = [held_out.text(c) for c in self.test]
        copied = nearest_neighbour(texts, responses, questions)
        expected = [held_out.reference(c) for c in self.test]
        labels = [held_out.labels(c) for c in self.test]
        figures = {
            **exact_match(answers, expected, labels),
            "exact_match_nearest_neighbour": exact_match(copied, expected, labels)["exact_match"],
        }
        return figures, dict(zip(questions, answers, strict=True))


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
