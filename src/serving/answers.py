"""The answers to one request, piece by piece, from the engine's thread into the event loop."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

from src.data.tokenizer import Tokenizer
from src.model.generation_config import GenerationConfig
from src.serving.engine import Completion, Engine, EngineStopped, QueueFull
from src.serving.errors import ApiError, busy
from src.talk.assistant import Reply
from src.talk.text_stream import TextStream


class Answers:
    """Several replies, computed at once; each has its prompt and its settings.

    Iterate over (number of the answer, piece of its text, whether it has ended). ``strip`` leaves
    out white space at the beginning of an answer; ``max_seconds`` is the time limit of all;
    ``ignore_eos`` reads on after the end token.

    Raises:
        ApiError: the queue is full, or the server is stopping.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompts: Sequence[Sequence[int]],
        generations: Sequence[GenerationConfig],
        strip: bool,
        max_seconds: float,
        ignore_eos: bool = False,
    ):
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._max_seconds = max_seconds
        self._deadline = self._loop.time() + max_seconds
        self._events: asyncio.Queue[tuple[int, str, bool]] = asyncio.Queue()
        self._jobs: list[Completion] = []
        for number, (prompt, config) in enumerate(zip(prompts, generations, strict=True)):
            stream = TextStream(tokenizer, config.stop, strip)
            reply = Reply(None, stream, len(prompt), config.max_new_tokens)
            deliver = partial(self._deliver, number)
            self._jobs.append(Completion(prompt, config, reply, deliver, ignore_eos))
        self.replies = [completion.reply for completion in self._jobs]
        try:
            engine.submit(self._jobs)
        except QueueFull as error:
            raise busy(f"the server is busy: {error}; try again", 429) from error
        except EngineStopped as error:
            raise busy(str(error), 503) from error

    async def __aiter__(self) -> AsyncIterator[tuple[int, str, bool]]:
        """Raises ApiError: the time is over, or the engine failed."""
        num_running = len(self._jobs)
        while num_running:
            try:
                async with asyncio.timeout_at(self._deadline):
                    number, piece, ended = await self._events.get()
            except TimeoutError:
                message = f"the answer took longer than {self._max_seconds:g} seconds"
                raise ApiError(message, code="timeout", status=504) from None
            error = self._jobs[number].error if ended else None
            if isinstance(error, EngineStopped):
                raise busy(str(error), 503)
            if error is not None:
                raise ApiError("decoding failed; the server's log says why", status=500)
            num_running -= ended
            yield number, piece, ended

    async def wait(self) -> None:
        """Return when all have ended; raises what iterating raises."""
        async for _ in self:
            pass

    def cancel(self) -> None:
        """Stop those that have not ended."""
        self._engine.cancel(self._jobs)

    def _deliver(self, number: int, piece: str, ended: bool) -> None:
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, (number, piece, ended))
        except RuntimeError:
            # At a second Ctrl-C the server closes its loop first: nobody reads the event.
            if not self._loop.is_closed():
                raise
