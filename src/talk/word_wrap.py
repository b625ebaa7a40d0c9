"""Text that comes piece by piece is broken between words, at the width that the screen has then."""

import unicodedata
from collections.abc import Callable

from rich.cells import cell_len

TAB = 8  # columns from one stop to the next
FENCE = "```"
GLUE = "\u00a0\u2007\u202f"  # blanks at which no line ends


class WordWrap:
    """Breaks a text between words; a word appears when it is complete.

    The lines of code stay whole, for the terminal to break: those between fences of three
    backticks, and those that are indented by four columns or a tab. So does a word that is longer
    than a line, such as an address. Between two wide characters (Chinese, Japanese) a line may end,
    but it does not begin with a closing sign.

    Args:
        width: returns the columns of the screen; asked at each word, for it may have changed.
    """

    def __init__(self, width: Callable[[], int]):
        self.width = width
        self.column = 0  # of the cursor
        self.line = ""  # what has come of this line of the text
        self.blanks = ""  # between the last word that was shown and the next
        self.word = ""  # not complete yet
        self.in_fence = False

    def push(self, text: str) -> str:
        """Return what can be shown now that ``text`` has come."""
        return "".join(self._push(char) for char in text)

    def finish(self) -> str:
        """Return the rest; the next text begins where this one ends."""
        return self._release() + self._take_blanks()

    def _push(self, char: str) -> str:
        if char == "\n":
            shown = self.finish()
            self.in_fence ^= self.line.lstrip().startswith(FENCE)
            self.line, self.column = "", 0
            return shown + char
        self.line += char
        if char.isspace() and char not in GLUE:
            shown = self._release()
            self.blanks += char
            return shown
        if self._may_break_before(char):
            shown = self._release()
            self.word = char
            return shown
        self.word += char
        # A word that no line can hold waits no longer: it is shown as it comes.
        return self._release() if cell_len(self.word) >= self.width() else ""

    def _may_break_before(self, char: str) -> bool:
        if not self.word or not (_is_wide(char) or _is_wide(self.word[-1])):
            return False
        # A mark, a joiner or what a joiner joins belongs to the character before it.
        joined = cell_len(char) == 0 or self.word[-1] == "\u200d" or self._is_opening(self.word[-1])
        return not joined and unicodedata.category(char) not in ("Po", "Pe", "Pf", "Lm")

    @staticmethod
    def _is_opening(char: str) -> bool:
        return unicodedata.category(char) in ("Ps", "Pi")

    def _release(self) -> str:
        """Return the word with what stands before it: the blanks, or the end of a line."""
        if not self.word:
            return ""
        width = max(1, self.width())
        if self.column > width:  # the screen has become narrower, and has broken the line itself
            self.column %= width
        word, self.word = self.word, ""
        start = self._after(self.blanks)
        fits = start + cell_len(word) < width  # the last column is left to the cursor
        if fits or not self.column or self._is_code():
            before = self._take_blanks()
        else:
            self.blanks, before, self.column = "", "\n", 0
        self.column += cell_len(word)
        if self.column >= width:
            self.column %= width
        return before + word

    def _take_blanks(self) -> str:
        self.column = self._after(self.blanks)
        blanks, self.blanks = self.blanks, ""
        return blanks

    def _after(self, blanks: str) -> int:
        """Return the column behind ``blanks``."""
        column = self.column
        for char in blanks:
            column = column // TAB * TAB + TAB if char == "\t" else column + cell_len(char)
        return column

    def _is_code(self) -> bool:
        indented = self.line.startswith(("    ", "\t"))
        return self.in_fence or indented or self.line.lstrip().startswith(FENCE)


def _is_wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in ("W", "F")
