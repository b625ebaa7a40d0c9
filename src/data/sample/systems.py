"""System texts: those that change the answers, and those that do not."""

from collections.abc import Callable

from src.data.sample.follow_ups import can_shout, short_answer
from src.data.sample.questions import Question, as_typed
from src.data.sample.split import pick

ONE_WORD = (
    "Answer in one word.",
    "Answer with one word only.",
    "Use only one word.",
    "One word answers, please.",
    "Reply with a single word.",
    "Always answer in one word.",
)
CAPITALS = (
    "Answer in capitals.",
    "Answer in capital letters.",
    "Write everything in capitals.",
    "Use capital letters only.",
    "Always shout.",
    "Reply in capital letters.",
)
ENDING = (
    'End every answer with "{word}".',
    'End your answers with "{word}".',
    'Add "{word}" to every answer.',
    'Close each reply with "{word}".',
    'Always say "{word}" at the end.',
)
LAST_WORDS = (
    *("Over.", "Amen.", "Cheers!", "Bye!", "Done.", "Okay?", "Thank you!", "Good luck!"),
    *("That is all.", "Have fun!", "Peace.", "My friend.", "Enjoy!", "See you!", "Hurray!", "Sir."),
)
NAME = (
    "You are called {name}.",
    "Your name is {name}.",
    "You are {name}.",
    "You are an assistant called {name}.",
    "You are {name}, a friendly assistant.",
    "Your name is {name}. Be kind.",
)
YOUR_NAME = (
    "What is your name?",
    "What are you called?",
    "Tell me your name.",
    "How can I call you?",
    "May I know your name?",
    "Please say your name.",
    "And your name is?",
    "Who are you?",
    "Do you have a name?",
)
# Hardly two begin alike: a name is learned from a few dozen conversations.
ASSISTANT_NAMES = tuple(
    "Robin Alex Kim Charlie Pepper Milo Luna Nova Sky Bella Hugo Iris Otto Juno Daisy Fritz Gus "
    "Tara Uma Victor Wanda Xavier Yara Zelda".split()
)
ROLES = ("assistant", "model", "teacher", "chatbot", "helper", "robot", "program", "expert")
KINDS = ("a helpful", "a friendly", "a patient", "a polite", "a good", "a small", "a careful")
WISHES = ("", "Be kind.", "Answer the questions.", "Be honest.", "Help the user.", "Be polite.")


def neutral(key: str) -> str:
    """Return a system text that changes no answer."""
    role = f"You are {pick(KINDS, f'kind {key}')} {pick(ROLES, f'role {key}')}."
    wish = pick(WISHES, f"wish {key}")
    if wish and pick((False, True), f"alone {key}"):
        return wish
    return f"{role} {wish}".strip()


def your_name(key: str) -> tuple[str, Question]:
    """Return a system text that says what the model is called, and a question about it."""
    name = pick(ASSISTANT_NAMES, f"name {key}")
    prompt = as_typed(pick(YOUR_NAME, f"your name {key}"))
    question = Question("system/name", key, (name,), "", prompt, f"My name is {name}.")
    return pick(NAME, f"called {key}").format(name=name), question


def not_by_name(question: Question) -> str:
    """Return the answer to a question that has nothing to do with the model's name."""
    return "" if "tiny" in f"{question.prompt} {question.response}".lower() else question.response


Answer = Callable[[Question], str]


def in_one_word(key: str) -> tuple[str, Answer]:
    """Return a system text that asks for one word, and what it makes of a question's answer."""
    return pick(ONE_WORD, f"one word {key}"), short_answer


def in_capitals(key: str) -> tuple[str, Answer]:
    """Return a system text that asks for capitals, and what it makes of a question's answer."""
    return pick(
        CAPITALS, f"capitals {key}"
    ), lambda question: question.response.upper() if can_shout(question) else ""


def with_ending(key: str) -> tuple[str, Answer]:
    """Return a system text that asks for last words, and what it makes of a question's answer."""
    word = pick(LAST_WORDS, f"last {key}")
    text = pick(ENDING, f"ending {key}").format(word=word)
    return text, lambda question: f"{question.response} {word}"


# Name, rule, and the share of the questions that are asked under it. No answer: not asked.
SYSTEMS: dict[str, tuple[Callable[[str], tuple[str, Answer]], float]] = {
    "one_word": (in_one_word, 0.55),
    "capitals": (in_capitals, 0.60),
    "ending": (with_ending, 0.08),
}
NAME_SHARE = 0.18
NAME_AT_ONCE = 0.4  # of these: in the first turn
NEUTRAL_SHARE = 0.15  # of all other conversations
