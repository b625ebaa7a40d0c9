"""The tab on which a person ranks replies: what a browser asks, and what it is shown."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import SystemRandom
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from src.data.config import DataConfig
from src.errors import UserError
from src.page.question import read_as
from src.ranking.collection import collect, origin_of, people_batch_size
from src.ranking.config import ME, RankingConfig
from src.ranking.draws import Drawn, messages_of
from src.ranking.records import Records
from src.ranking.session import Question, Session, outcome
from src.talk.assistant import Assistant

MOST_REPLIES = 1000  # that a browser may send ranks of


@dataclass
class RowsConfig:
    """Of ``conf/web.yaml``: whose prompts are replied to."""

    data: DataConfig


class Move(BaseModel):
    """What a person does; ``id`` is that of the question that they see, to which it is said."""

    model_config = ConfigDict(extra="forbid", strict=True)
    action: Literal["show", "rank", "skip", "undo"]
    id: int = 0
    ranks: list[int] = Field(default=[], max_length=MOST_REPLIES)


def read_move(body: bytes) -> Move:
    """Return the move of a request; see ``read_as``."""
    return read_as(Move, body)


class Ahead(Iterator[Drawn]):
    """Replies, of which the next can be drawn while a person still reads."""

    def __init__(self, drawn: Iterator[Drawn]):
        self.drawn = drawn
        self.ready: deque[Drawn] = deque()
        self.failure: Exception | None = None

    def __next__(self) -> Drawn:
        if self.ready:
            return self.ready.popleft()
        if self.failure is not None:
            raise self.failure
        return next(self.drawn)

    def prepare(self) -> None:
        """Draw the next replies, unless they are there; what fails is raised when they are due."""
        if self.ready or self.failure is not None:
            return
        try:
            self.ready.extend(item for item in (next(self.drawn, None),) if item is not None)
        except Exception as error:
            self.failure = error


class Ranker:
    """One ranking for everybody who opens the tab; it begins when the first one does.

    Its methods are called from one thread.

    Args:
        settings: which prompts, and where rankings go.
        data: where the prompts are.
        model_path: the model that replies.
        load: returns that model.
    """

    def __init__(
        self,
        settings: RankingConfig,
        data: DataConfig,
        model_path: str,
        load: Callable[[], Assistant],
    ):
        self.settings = settings
        self.data = data
        self.model_path = model_path
        self.load = load
        self.session: Session | None = None
        self.id = SystemRandom().getrandbits(31)  # a page of an earlier start has another

    def play(self, move: Move) -> dict[str, Any]:
        """Do what a person does; return what the page shows then.

        Raises:
            UserError: it cannot be done; nothing has changed. Where no replies could be drawn, or
                the file is not as it was, the next move begins anew.
        """
        notice = ""
        if self.session is None:
            self.session, notice = self._begin()
        session = self.session
        try:
            if move.action != "show":
                notice = self._do(session, move)
            return self._shown(session, notice)
        finally:
            if session.failure is not None or session.records.is_lost:
                self._drop()

    def prepare(self) -> None:
        """Draw what is asked next while the person reads."""
        if self.session is not None and self.session.current is not None:
            self.ahead.prepare()

    def _begin(self) -> tuple[Session, str]:
        settings = self.settings
        records = Records(settings.output_path, settings.key("output"))
        assistant = self.load()
        batch_size = people_batch_size(settings)
        found = collect(settings, self.data, assistant, records, batch_size)
        self.ahead, self.num_prompts = Ahead(found.drawn), found.num_prompts
        lines = [f"rows left out: {line}" for line in found.left_out]
        try:
            line = records.begin(origin_of(settings, assistant, self.model_path, ME))
        except UserError:
            records.close()
            raise
        lines += [line] if line else []
        return Session(self.ahead, records, settings.seed), "; ".join(lines)

    def _drop(self) -> None:
        """Forget the session, so that the next move begins anew."""
        if self.session is not None:
            self.session.records.close()
        self.session = None

    def _do(self, session: Session, move: Move) -> str:
        """Do it, and return what else is to be said."""
        if move.id != self.id:
            return "that is no longer asked: it was answered on another page, or the program is new"
        if move.action == "undo":
            if not session.undo():
                return "there is nothing to take back"
        elif session.question() is None:
            return ""
        elif move.action == "skip":
            session.skip()
        else:
            session.rank(move.ranks)
        self.id += 1
        return ""

    def _shown(self, session: Session, notice: str) -> dict[str, Any]:
        question = session.question()
        left = self.num_prompts - session.num_passed
        return {
            "id": self.id,
            "question": None if question is None else _as_json(question),
            "can_undo": bool(session.done),
            "status": f"{outcome(session.counts, session.records)}; prompts left: {left:,}",
            "notice": notice,
        }


def _as_json(question: Question) -> dict[str, Any]:
    """Return a question without what it must not tell: whether it comes for the second time."""
    messages = messages_of(question.item.context)
    return {
        "messages": [{"role": each.role, "content": each.content} for each in messages],
        "replies": [{"text": text, "ended": ended} for text, ended in question.shown],
    }
