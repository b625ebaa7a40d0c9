"""A person ranks at a terminal."""

from collections.abc import Callable

from src.data.comparison import Context
from src.errors import UserError
from src.ranking.ranks import no_ranking, places
from src.ranking.session import Counts, Question, Session
from src.talk.screen import visible

MOST_DIGITS = 6  # of a rank
LINE_OF_REPLY = "\n     "  # stands apart from the numbers of the replies
HELP = "best is 1, equal is a tie, as in 1 2 2 4; s skips, u takes the last one back, q ends"


def ask_all(session: Session, ask: Callable[[str], str], show: Callable[[str], None]) -> Counts:
    """Ask a person until they end or all is ranked; return what happened.

    Args:
        session: what is asked.
        ask: returns what the person types; EOFError ends.
        show: prints.
    """
    show(HELP)
    while (question := session.question()) is not None:
        answer = _ask(question, ask, show)
        if answer == "q":
            break
        if answer == "u":
            if not session.undo():
                show("there is nothing to take back")
        elif isinstance(answer, str):
            session.skip()
        else:
            session.rank(answer)
    return session.counts


def _ask(
    question: Question, ask: Callable[[str], str], show: Callable[[str], None]
) -> list[int] | str:
    """Return the ranks of the replies as they are shown, or s, u or q."""
    show("\n" + _context_text(question.item.context))
    for number, (reply, ended) in enumerate(question.shown, 1):
        text = visible(reply).replace("\n", LINE_OF_REPLY) or "(nothing)"
        show(f"  {number}. {text}{'' if ended else ' ... (cut off)'}")
    count = len(question.shown)
    while True:
        try:
            text = ask(f"ranks of 1 to {count}: ").strip().lower()
        except EOFError:
            return "q"
        if text in ("s", "u", "q"):
            return text
        try:
            return read_ranks(text, count)
        except UserError as error:
            show(f"{error}: {HELP}")


def read_ranks(text: str, count: int) -> list[int]:
    """Return the ranks that a person typed, 1 is best: "1 2 2 4", "1,2,2,4" or "1224".

    Raises:
        UserError: they are not ``count`` whole numbers from 1.
    """
    words = text.replace(",", " ").split()
    if len(words) == 1 and len(words[0]) == count:
        words = list(words[0])
    are_numbers = all(word.isdecimal() and len(word) <= MOST_DIGITS for word in words)
    numbers = [int(word) for word in words] if are_numbers else []
    if len(numbers) != count or min(numbers) < 1:
        raise no_ranking(text, count)
    return places(numbers)


def _context_text(context: Context) -> str:
    turns, prompt, system, opening = context
    lines = [f"({system})"] if system else []
    lines += [opening] if opening else []
    for question, reply in turns:
        lines += [f"> {question}", reply]
    return visible("\n".join([*lines, f"> {prompt}"]))
