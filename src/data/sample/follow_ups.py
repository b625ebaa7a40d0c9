"""Questions that need the turn before them: "What did I just ask?", "Say it again in capitals."."""

import re
from collections.abc import Callable

from src.data.sample.questions import Question, as_typed
from src.data.sample.split import pick

Turn = tuple[str, str]

REPEAT = (
    "Say that again.",
    "Can you repeat that?",
    "Please repeat your answer.",
    "Sorry, what did you say?",
    "I did not hear you. Once more, please.",
    "What was your last answer?",
    "Say it again, please.",
    "Pardon?",
)
RECALL = (
    "What did I just ask?",
    "What was my last question?",
    "What did I ask you?",
    "Do you remember what I just asked?",
    "Tell me what I just asked you.",
    "I forgot what I asked. What was it?",
    "What was I asking about?",
    "What were we talking about?",
)
CAPITALS = (
    "Say it again in capitals.",
    "Now in capital letters, please.",
    "Can you write that in capitals?",
    "In capitals, please.",
    "Repeat your answer in capital letters.",
    "The same in capitals?",
    "Please shout that.",
    "Write it in capital letters.",
)
ONE_WORD = (
    "In one word?",
    "In one word, please.",
    "Can you say that in one word?",
    "Only one word, please.",
    "Make it a single word.",
    "Shorter, please.",
    "Just the answer, please.",
    "Now answer in one word.",
)
MY_NAME = (
    "What is my name?",
    "Do you remember my name?",
    "What am I called?",
    "Who am I?",
    "Tell me my name.",
    "What's my name again?",
    "Do you know who I am?",
    "Can you tell me what my name is?",
)

# The families whose answers are also taught in capitals, and in one word: each word in capitals
# is a new one to the model, and so is each fact without its sentence.
IN_CAPITALS = frozenset({"capitals", "categories", "colours", "continents", "letters"})
IN_ONE_WORD = IN_CAPITALS | {"calendar", "even_odd", "opposites"}
# The families whose answers end in the word that matters, so that the follow-up can point at it.
ENDS_IN_WORD = IN_ONE_WORD | {"addition", "animals", "elements", "past_tense", "plurals"}


def repeat(question: Question, key: str) -> Turn | None:
    """Say the same again."""
    return _phrased(REPEAT, key), question.response


def recall(question: Question, key: str) -> Turn | None:
    """Say what was asked."""
    if not question.about:
        return None
    return _phrased(RECALL, key), f"You asked about {question.about}."


def capitals(question: Question, key: str) -> Turn | None:
    """Say the answer in capitals."""
    if not can_shout(question):
        return None
    return _phrased(CAPITALS, key), question.response.upper()


def one_word(question: Question, key: str) -> Turn | None:
    """Say the answer in one word."""
    word = re.search(r"(\w+)\.$", question.response)
    if word is None or question.family not in ENDS_IN_WORD:
        return None
    return _phrased(ONE_WORD, key), word[1]


def my_name(question: Question, key: str) -> Turn | None:
    """Say who is asking."""
    if question.family != "names":
        return None
    return _phrased(MY_NAME, key), f"Your name is {question.fact[0]}."


def can_shout(question: Question) -> bool:
    """Return whether an answer is taught in capitals, too."""
    return question.family in IN_CAPITALS


def short_answer(question: Question) -> str:
    """Return the answer in one word; nothing where that is not taught."""
    return question.word if question.family in IN_ONE_WORD else ""


def _phrased(phrasings: tuple[str, ...], key: str) -> str:
    return as_typed(pick(phrasings, f"phrasing {key}"))


# Name, rule, and the share of the questions that it follows.
FOLLOW_UPS: dict[str, tuple[Callable[[Question, str], Turn | None], float]] = {
    "repeat": (repeat, 0.15),
    "recall": (recall, 0.22),
    "capitals": (capitals, 0.60),
    "one_word": (one_word, 0.35),
    "my_name": (my_name, 2.0),
}
