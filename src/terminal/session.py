"""One conversation: its messages and its last question; saved, it is a row to train on."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from src.errors import UserError
from src.files import atomic, disk
from src.model.generation_config import GenerationConfig
from src.talk.assistant import Assistant, Reply
from src.talk.messages import Message
from src.talk.opening import opening

ROWS = ".jsonl"  # what training reads


class Session:
    """One conversation; ``messages`` holds its system text, if any, and its complete turns.

    Args:
        assistant: the model that answers.
        generation: its settings; they may be replaced between questions.
        system: a text before the first question.

    Raises:
        UserError: the model's template leaves ``system`` out.
    """

    def __init__(self, assistant: Assistant, generation: GenerationConfig, system: str | None):
        self.assistant = assistant
        self.generation = generation
        self.messages = opening(assistant, system)
        self.question: str | None = None  # the last one
        self.question_index = len(self.messages)  # where its turn belongs
        self.num_retries = 0

    @property
    def num_positions(self) -> int:
        """The most tokens that the model reads and writes together."""
        return self.assistant.model.config.n_positions

    def ask(self, question: str) -> Reply:
        """Return the reply to ``question`` after all messages; ``keep`` it when it has ended.

        Raises:
            UserError: the question is empty, no valid text, or too long for the model.
        """
        return self._ask(question, len(self.messages), num_retries=0)

    def retry(self) -> Reply:
        """Return another reply to the last question, drawn with the next seed.

        Raises:
            UserError: nothing has been asked yet.
        """
        if self.question is None:
            raise UserError("nothing has been asked yet")
        return self._ask(self.question, self.question_index, self.num_retries + 1)

    def _ask(self, question: str, index: int, num_retries: int) -> Reply:
        generation = replace(self.generation, seed=self.generation.seed + num_retries)
        messages = [*self.messages[:index], Message("user", question)]
        reply = self.assistant.reply(messages, generation)
        self.question, self.question_index, self.num_retries = question, index, num_retries
        return reply

    def keep(self, reply: Reply) -> None:
        """Add the last question and ``reply`` to the conversation, unless the reply is empty."""
        if reply.text.strip():
            assert self.question is not None
            turn = [Message("user", self.question), Message("assistant", reply.text)]
            self.messages[self.question_index :] = turn

    def clear(self) -> None:
        """Forget all messages but the system text."""
        self.messages = [message for message in self.messages if message.role == "system"]
        self.question, self.question_index, self.num_retries = None, len(self.messages), 0

    def save(self, name: str) -> int:
        """Write the conversation as a row of messages; return its number of turns.

        Raises:
            UserError: there is nothing to save, or a file of that name, or it cannot be written.
        """
        num_turns = sum(message.role == "user" for message in self.messages)
        if not num_turns:
            raise UserError("nothing has been answered yet")
        if Path(name).suffix != ROWS:
            raise UserError(f"{name}: give it a name that ends in {ROWS}, as training reads")
        row = {"messages": [asdict(message) for message in self.messages]}
        try:
            _write_new(Path(name).expanduser(), json.dumps(row, ensure_ascii=False) + "\n")
        except FileExistsError as error:
            raise UserError(f"{name}: there is such a file; give another name") from error
        except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name; ~nobody
            reason = disk.reason(error) if isinstance(error, OSError) else error
            raise UserError(f"{name}: cannot write it: {reason}") from error
        return num_turns


def _write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet: whole, or not at all."""
    path.open("x", encoding="utf-8").close()  # the name is ours, or FileExistsError
    try:
        atomic.write_text(path, text, sweeps=False)
    except BaseException:
        path.unlink()
        raise
