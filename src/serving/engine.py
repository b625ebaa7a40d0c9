"""Replies side by side: each joins the decoder when there is a slot, and leaves when it ends.

    submit -> waiting (at most max_queue) -> a slot of the decoder -> piece by piece to deliver

One thread owns the decoder. Between two steps it drops cancelled replies and reads the prompts that
wait, so a request does not wait until the answers before it have ended (continuous batching, Yu et
al., 2022: Orca).
"""

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import TracebackType

from src.model.decoder import Decoder
from src.model.generation_config import GenerationConfig
from src.talk.assistant import Reply

MAX_PREFILL = 512  # tokens of prompts between two steps, or one longer prompt: replies go on

log = logging.getLogger(__name__)


class QueueFull(Exception):
    """There is no room for another reply that waits."""


class EngineStopped(Exception):
    """The engine stopped before a reply had ended."""

    def __init__(self) -> None:
        super().__init__("the server is stopping")


@dataclass(eq=False)
class Completion:
    """One reply to compute.

    The engine's thread calls ``deliver(piece, ended)`` at every new token; it must not block. After
    the end, ``reply.stop_reason`` or ``error`` gives the reason. With ``ignore_eos`` the end token
    is read on, without a text, as in vLLM.
    """

    prompt: Sequence[int]
    generation: GenerationConfig
    reply: Reply
    deliver: Callable[[str, bool], None]
    ignore_eos: bool = False
    error: Exception | None = None

    @property
    def ended(self) -> bool:
        """Whether no further piece is delivered."""
        return self.reply.stop_reason is not None or self.error is not None


class Engine:
    """Computes completions inside ``with Engine(...) as engine``; ``max_queue`` may wait.

    ``make_decoder`` makes an empty decoder, and another one after a failure; any of ``end_ids``
    ends a reply.
    """

    def __init__(
        self, make_decoder: Callable[[], Decoder], end_ids: Collection[int], max_queue: int
    ):
        self.make_decoder = make_decoder
        self.decoder = make_decoder()
        self.num_slots = self.decoder.num_free_slots
        self.end_ids = end_ids
        self.max_queue = max_queue
        self._waiting: list[Completion] = []
        self._joining: list[Completion] = []  # the decoder reads their prompts
        self._running: dict[int, Completion] = {}  # by slot
        self._stopped = False
        self._changed = threading.Condition()  # guards all of the above but the decoder
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def __enter__(self) -> "Engine":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join()

    @property
    def num_running(self) -> int:
        """How many replies have a slot."""
        with self._changed:
            return sum(
                not completion.ended for completion in [*self._joining, *self._running.values()]
            )

    @property
    def num_waiting(self) -> int:
        """How many completions wait for a slot."""
        with self._changed:
            return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether the engine computes."""
        return self._thread.is_alive() and not self._stopped

    def submit(self, completions: Sequence[Completion]) -> None:
        """Take all of ``completions``, or none.

        Raises:
            QueueFull: there is no room for all of them.
            EngineStopped: the engine has stopped.
        """
        with self._changed:
            if self._stopped:
                raise EngineStopped
            num_completions = self.num_running + len(self._waiting) + len(completions)
            if num_completions > self.num_slots + self.max_queue:
                raise QueueFull(f"{len(self._waiting)} answers are waiting already")
            self._waiting += completions
            self._changed.notify()

    def cancel(self, completions: Sequence[Completion]) -> None:
        """Stop ``completions``; after this has returned, nothing of them is delivered."""
        with self._changed:
            for completion in completions:
                if not completion.ended:
                    completion.reply.stop_reason = "cancelled"
            self._waiting = [completion for completion in self._waiting if not completion.ended]
            self._changed.notify()

    def stop(self) -> None:
        """End every completion with ``EngineStopped``; does not wait for that."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _work(self) -> None:
        try:
            while self._begin():
                failure = None
                try:
                    self._compute()
                except Exception as error:  # the completions that wait are not lost
                    log.exception("decoding failed")
                    failure = error.with_traceback(None)  # its frames hold the decoder
                if failure:
                    self._restart(failure)
        finally:
            self.stop()
            with self._changed:
                self._give_up([*self._running.values(), *self._waiting], EngineStopped())
                self._running, self._waiting = {}, []

    def _begin(self) -> bool:
        """Wait for work; return False if the engine has stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._waiting or self._running)
            return not self._stopped

    def _compute(self) -> None:
        """Remove what has ended, add what waits, and take a step."""
        with self._changed:
            for slot in [slot for slot, completion in self._running.items() if completion.ended]:
                self.decoder.leave(slot)
                del self._running[slot]
            self._joining = batch = self._next_batch()
            del self._waiting[: len(batch)]
        if batch:
            configs = [completion.generation for completion in batch]
            slots = self.decoder.join([completion.prompt for completion in batch], configs)
            with self._changed:
                self._running |= dict(zip(slots, batch, strict=True))
                self._joining = []
        tokens = self.decoder.step() if self._running else {}
        with self._changed:
            for slot, token in tokens.items():
                self._advance(slot, token)

    def _next_batch(self) -> list[Completion]:
        """Return the first that wait: as many as have slots and ``MAX_PREFILL`` allows."""
        batch: list[Completion] = []
        num_tokens = 0
        for completion in self._waiting[: self.num_slots - len(self._running)]:
            num_tokens += len(completion.prompt)
            if batch and num_tokens > MAX_PREFILL:
                break
            batch.append(completion)
        return batch

    def _advance(self, slot: int, token: int) -> None:
        completion = self._running[slot]
        if completion.ended:  # cancelled during the step
            return
        reply = completion.reply
        is_end = token in self.end_ids
        piece = ""
        if not is_end:
            piece = reply.push(token)
        elif completion.ignore_eos:
            reply.num_new_tokens += 1
        if not completion.ended and (reply.is_full or (is_end and not completion.ignore_eos)):
            piece += reply.end()
        completion.deliver(piece, completion.ended)

    def _restart(self, error: Exception) -> None:
        with self._changed:
            self._give_up([*self._running.values(), *self._joining], error)
            self._running, self._joining = {}, []
        del self.decoder  # frees its memory for the next one
        self.decoder = self.make_decoder()

    def _give_up(self, completions: Sequence[Completion], error: Exception) -> None:
        for completion in completions:
            if not completion.ended:
                completion.error = error
                completion.deliver("", True)
