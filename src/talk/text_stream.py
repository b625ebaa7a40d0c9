"""Tokens become text as they come: never half a character, never a part of a stop string."""

import codecs
from collections.abc import Sequence

from src.data.tokenizer import Tokenizer

UTF8 = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """The text of one reply; ``text`` is what has been given out so far.

    Args:
        tokenizer: what decodes.
        stop: texts at which the reply ends, without them.
        strip: leave out blanks at the beginning: after a template's header there is one.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), strip: bool = True):
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.strip = strip
        self.text = ""
        self.stopped = False  # a stop string came
        self.decoder = UTF8("replace")  # keeps the bytes that make no whole character yet
        self.held = ""  # whole characters that may be the beginning of a stop string

    def push(self, token: int) -> str:
        """Return the text that ``token`` completes, perhaps none."""
        return self._give(self.decoder.decode(self.tokenizer.bytes_of(token)), final=False)

    def finish(self) -> str:
        """Return what was held back: no other token comes."""
        return self._give(self.decoder.decode(b"", final=True), final=True)

    def _give(self, text: str, final: bool) -> str:
        if self.stopped:
            return ""
        text = self.held + text
        if self.strip and not self.text:
            text = text.lstrip()
        found = [place for stop in self.stop if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            piece, self.held = text[: min(found)], ""
        else:
            keep = 0 if final else self._may_stop(text)
            piece, self.held = text[: len(text) - keep], text[len(text) - keep :]
        self.text += piece
        return piece

    def _may_stop(self, text: str) -> int:
        """Return how many characters at the end of ``text`` begin a stop string."""
        longest = max((len(stop) for stop in self.stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.stop):
                return length
        return 0
