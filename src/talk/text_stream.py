"""Tokens become text one by one: never half a character, never a part of a stop string."""

import codecs
from collections.abc import Sequence

from src.data.tokenizer import REPLACEMENT, Tokenizer

UTF8 = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """The text of one reply; ``text`` is all that has been returned so far.

    Args:
        tokenizer: of the model.
        stop: texts that end the reply and are no part of it.
        strip: leave out white space at the beginning: a blank follows the template's header.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), strip: bool = True):
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.strip = strip
        self.text = ""
        self.stopped = False  # a stop string came
        self.decoder = UTF8("replace")  # keeps the bytes of an incomplete character
        self.tokens: list[int] = []  # where their texts depend on each other
        self.decoded = ""
        self.tail = ""  # characters that may begin a stop string

    def push(self, token: int) -> str:
        """Return the text that ``token`` completes, perhaps none."""
        return self._release(self._decode(token), final=False)

    def finish(self) -> str:
        """Return the rest of the text: no token follows."""
        return self._release(self._decode(None), final=True)

    def _decode(self, token: int | None) -> str:
        """Return the text that ``token`` completes; of None, what is left at the end."""
        if self.tokenizer.is_byte_level:
            new = b"" if token is None else self.tokenizer.bytes_of(token)
            return self.decoder.decode(new, final=token is None)
        if token is not None:
            self.tokens.append(token)
        text = self.tokenizer.decode(self.tokens)
        if text.endswith(REPLACEMENT) and token is not None:
            return ""
        piece, self.decoded = text[len(self.decoded) :], text
        return piece

    def _release(self, text: str, final: bool) -> str:
        if self.stopped:
            return ""
        text = self.tail + text
        if self.strip and not self.text:
            text = text.lstrip()
        positions = [position for stop in self.stop if (position := text.find(stop)) >= 0]
        if positions:
            self.stopped = True
            piece, self.tail = text[: min(positions)], ""
        else:
            end = len(text) if final else len(text) - self._tail_length(text)
            piece, self.tail = text[:end], text[end:]
        self.text += piece
        return piece

    def _tail_length(self, text: str) -> int:
        """Return how many characters at the end of ``text`` may begin a stop string."""
        longest = max((len(stop) for stop in self.stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.stop):
                return length
        return 0
