"""The answers to one request, piece by piece, from the engine's thread into the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from src.data.tokenizer import Tokenizer
from src.model.generation_config import GenerationConfig
from src.serving.engine import Engine, EngineStopped, Job, QueueFull
from src.serving.errors import ApiError, busy
from src.talk.assistant import Reply
from src.talk.text_stream import TextStream


class Answers:
    """Several replies, computed at once.

    Iterate over (number of the answer, piece of its text, whether it has ended).

    Args:
        engine: what computes.
        tokenizer: what decodes.
        prompts: ids to go on from, one list for each answer.
        generations: the settings of each answer.
        strip: leave out blanks at the beginning of an answer.
        max_seconds: in which all of them must have ended.

    Raises:
        ApiError: too many answers are waiting already, or the server is stopping.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompts: Sequence[Sequence[int]],
        generations: Sequence[GenerationConfig],
        strip: bool,
        max_seconds: float,
    ):
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._max_seconds = max_seconds
        self._deadline = self._loop.time() + max_seconds
        self._events: asyncio.Queue[tuple[int, str, bool]] = asyncio.Queue()
        self.replies = [
            Reply(
                None,
                TextStream(tokenizer, config.stop, strip),
                len(prompt),
                config.max_new_tokens,
            )
            for prompt, config in zip(prompts, generations, strict=True)
        ]
        self._jobs = [
            Job(prompt, config, reply, self._deliver_to(number))
            for number, (prompt, config, reply) in enumerate(
                zip(prompts, generations, self.replies, strict=True)
            )
        ]
        try:
            engine.submit(self._jobs)
        except QueueFull as error:
            raise busy(f"the server is busy: {error}; try again", 429) from error
        except EngineStopped as error:
            raise busy(str(error), 503) from error

    async def __aiter__(self) -> AsyncIterator[tuple[int, str, bool]]:
        """Raises ApiError: it takes too long, or the engine gave up."""
        left = len(self._jobs)
        while left:
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
            left -= ended
            yield number, piece, ended

    async def wait(self) -> None:
        """Return when all have ended; errors as for iterating."""
        async for _ in self:
            pass

    def cancel(self) -> None:
        """Compute no more of them; nothing, if they have ended."""
        self._engine.cancel(self._jobs)

    def _deliver_to(self, number: int) -> Callable[[str, bool], None]:
        def deliver(piece: str, ended: bool) -> None:
            event = (number, piece, ended)
            try:
                self._loop.call_soon_threadsafe(self._events.put_nowait, event)
            except RuntimeError:
                # A server told twice to stop closes its loop first: nobody is left to be told.
                if not self._loop.is_closed():
                    raise

        return deliver
