"""A model to talk to: messages in, a reply out, at once or piece by piece."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from threading import Lock
from typing import Literal

import torch

from src.data.tokenizer import Tokenizer
from src.model.decoder import Decoder
from src.model.decoding_weights import DecodingWeights, choose_weights
from src.model.generation import generate
from src.model.generation_config import GenerationConfig
from src.model.gpt2 import GPT2
from src.talk.chat_template import ChatTemplate, default_template
from src.talk.messages import Message, check_messages, fit
from src.talk.model_folder import load_model_folder
from src.talk.text_stream import TextStream

StopReason = Literal["end", "stop", "length", "timeout", "cancelled"]


class Reply:
    """A reply while it is generated: iterate over its pieces; its counts cover those so far.

    Without ``tokens`` the caller decodes, and calls ``push`` and ``end``.

    ``stop_reason`` is None until the reply ends: ``end`` (the model's end token), ``stop`` (a stop
    string), ``length`` (``max_new_tokens``, or no free position), ``timeout`` (more than
    ``max_seconds``, checked after each token) or ``cancelled`` (``close``).
    """

    def __init__(
        self,
        tokens: Generator[int] | None,
        stream: TextStream,
        num_prompt_tokens: int,
        max_new_tokens: int,
        max_seconds: float | None = None,
    ):
        self.max_seconds = max_seconds
        self.num_prompt_tokens = num_prompt_tokens
        self.num_new_tokens = 0
        self.num_dropped_turns = 0
        self.seconds = 0.0  # until the newest token, with the time that the prompt took
        self.stop_reason: StopReason | None = None
        self._max_new_tokens = max_new_tokens
        self._stream = stream
        self._pieces = self._read(tokens)

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    @property
    def text(self) -> str:
        """The text so far."""
        return self._stream.text

    @property
    def tokens_per_second(self) -> float:
        """New tokens a second; the time of the prompt counts."""
        return self.num_new_tokens / self.seconds if self.seconds else 0.0

    def read_all(self) -> str:
        """Wait for the end; return the whole text."""
        for _ in self._pieces:
            pass
        return self.text

    def close(self) -> None:
        """Stop: no further token is computed."""
        self._pieces.close()
        self.stop_reason = self.stop_reason or "cancelled"

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another token."""
        return self.num_new_tokens == self._max_new_tokens

    def push(self, token: int) -> str:
        """Take the next token; return the text that it completes."""
        self.num_new_tokens += 1
        piece = self._stream.push(token)
        if self._stream.stopped:
            self.stop_reason = "stop"
        return piece

    def end(self) -> str:
        """End the reply, for no token follows; return the rest of the text."""
        piece = self._stream.finish()
        stopped = self._stream.stopped
        self.stop_reason = "stop" if stopped else "length" if self.is_full else "end"
        return piece

    def _is_late(self) -> bool:
        return self.max_seconds is not None and self.seconds > self.max_seconds

    def _read(self, tokens: Generator[int] | None) -> Generator[str]:
        if tokens is None:
            return
        start = time.perf_counter()
        with closing(tokens):
            for token in tokens:
                piece = self.push(token)
                self.seconds = time.perf_counter() - start
                if self._is_late() and not self.stop_reason:
                    piece += self.end()
                    self.stop_reason = "timeout" if self.stop_reason == "end" else self.stop_reason
                if piece:
                    yield piece
                if self.stop_reason:
                    return
        if piece := self.end():
            yield piece


class Assistant:
    """A model with its tokenizer, its chat template (None: ours) and its end tokens.

    Any of ``end_ids`` ends a reply; None: the tokenizer's end token.

    Between two replies it keeps packed weights and the cache, so the next turn of a conversation
    computes only its new tokens. The model must not change meanwhile.
    """

    def __init__(
        self,
        model: GPT2,
        tokenizer: Tokenizer,
        template: ChatTemplate | None = None,
        end_ids: Collection[int] | None = None,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.template = template or default_template(tokenizer)
        self.end_ids = frozenset([tokenizer.end_id] if end_ids is None else end_ids)
        # Decoders of one slot, by the precision of their weights, and the weights that they share.
        self._idle: dict[str, list[Decoder]] = defaultdict(list)
        self._packed: dict[str, DecodingWeights] = {}
        self._packing = Lock()

    def reply(
        self,
        messages: Sequence[Message],
        generation: GenerationConfig,
        max_seconds: float | None = None,
    ) -> Reply:
        """Return the reply to ``messages``, a question at their end; iterating over it decodes.

        Raises:
            UserError: a message is empty, no valid text, out of turn, or too long for the model.
        """
        check_messages(messages)
        positions = self.model.config.n_positions
        prompt = fit(messages, self.template, positions, generation.max_new_tokens)
        reply = Reply(
            self._tokens(prompt.ids, generation),
            TextStream(self.tokenizer, generation.stop),
            len(prompt.ids),
            min(generation.max_new_tokens, positions - len(prompt.ids)),
            max_seconds,
        )
        reply.num_dropped_turns = prompt.num_dropped_turns
        return reply

    def _tokens(self, ids: list[int], generation: GenerationConfig) -> Generator[int]:
        """Yield the tokens of a reply; replies at the same time have separate decoders."""
        idle = self._idle[generation.weights]
        try:
            decoder = idle.pop()
        except IndexError:
            decoder = Decoder(self.model, 1, self._pack(generation.weights), remembers=True)
        try:
            steps = generate(self.model, [ids], self.end_ids, generation, decoder)
            with closing(steps):
                yield from (token for (token,) in steps if token is not None)
        finally:
            # A decoder without a free slot was interrupted in the prompt: it is not used again.
            if decoder.num_free_slots:
                idle.append(decoder)

    def _pack(self, weights: str) -> DecodingWeights:
        with self._packing:
            if weights not in self._packed:
                kind = choose_weights(self.model, weights)
                packed = self._packed.get(kind) or DecodingWeights(self.model, kind)
                self._packed[weights] = self._packed[kind] = packed
            return self._packed[weights]

    def replies(
        self,
        prompts: Sequence[str | Sequence[Message]],
        generation: GenerationConfig,
        batch_size: int = 64,
        *,
        max_seconds: float | None = None,
        progress: Callable[[int], object] = lambda number: None,
    ) -> list[str]:
        """Return the reply to each prompt or conversation; similar lengths are decoded together.

        Args:
            prompts: texts, or messages with a question at their end.
            generation: the settings of all.
            batch_size: how many are decoded together, at most.
            max_seconds: after which all end as they are, some perhaps empty; None: no limit.
            progress: takes the number of replies that have just ended.
        """
        positions = self.model.config.n_positions
        ids = [
            fit(_messages(prompt), self.template, positions, generation.max_new_tokens).ids
            for prompt in prompts
        ]
        by_length = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
        replies = [""] * len(prompts)

        def is_late() -> bool:
            return max_seconds is not None and time.perf_counter() - start > max_seconds

        longest = max(map(len, ids), default=0) + generation.max_new_tokens
        num_slots = min(batch_size, len(prompts))
        decoder = Decoder(self.model, num_slots, generation.weights, longest)
        start = time.perf_counter()  # packing the weights is not the time of the replies
        for first in range(0, len(prompts), batch_size):
            if is_late():
                break
            rows = by_length[first : first + batch_size]
            streams = [TextStream(self.tokenizer, generation.stop) for _ in rows]
            batch = [ids[i] for i in rows]
            steps = generate(self.model, batch, self.end_ids, generation, decoder)
            num_ended = 0
            with closing(steps):
                for step in steps:
                    for stream, token in zip(streams, step, strict=True):
                        if token is not None:
                            stream.push(token)
                    is_over = [
                        token is None or stream.stopped
                        for stream, token in zip(streams, step, strict=True)
                    ]
                    progress(sum(is_over) - num_ended)
                    num_ended = sum(is_over)
                    if all(is_over) or is_late():
                        break
            progress(len(rows) - num_ended)
            for row, stream in zip(rows, streams, strict=True):
                stream.finish()
                replies[row] = stream.text
        return replies

    def can_read(self, prompt: str | Sequence[Message]) -> bool:
        """Whether the model has a position for a reply after the last question of ``prompt``."""
        messages = _messages(prompt)
        system = [message for message in messages[:-1] if message.role == "system"]
        return len(self.template([*system, messages[-1]])) < self.model.config.n_positions


def _messages(prompt: str | Sequence[Message]) -> Sequence[Message]:
    messages = [Message("user", prompt)] if isinstance(prompt, str) else prompt
    check_messages(messages)
    return messages


def load_assistant(model_path: str, device: torch.device, key: str = "model_path") -> Assistant:
    """Load model, tokenizer and chat template of a folder or hub name.

    Raises:
        UserError: there is none, it is no GPT-2, or it is broken; names ``key``.
    """
    folder = load_model_folder(model_path, key)
    return Assistant(folder.model.to(device), folder.tokenizer, folder.template, folder.end_ids)
