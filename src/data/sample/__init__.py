"""The embedded corpus: conversations small enough to read, enough to learn from.

    *.toml + computed.py  ->  facts x phrasings  ->  questions  ->  train / validation / test
                                                        |
    follow_ups.py, systems.py  ->  conversations.py  <--+   ->  rows of one to four turns

A TOML file holds one family of questions: facts (the rows of a table) and, for each kind of
question, its phrasings and its response. Each fact is asked about in up to twelve of the phrasings:

    facts      ["France", "Paris"]   ["Japan", "Tokyo"]        (columns: country, capital)
    phrasings  "What is the capital of {country}?"   "{Country}'s capital?"
    response   "The capital of {country} is {capital}."
    subject    "{country}"     as a follow-up: "And {country}?", "What about {country}?"
    word       "{capital}"     the answer in one word
    about      "the capital of {country}"     "You asked about the capital of France."

makes four questions. `{Country}` is `{country}` with a capital first letter. A third of the prompts
look as if typed in a hurry: "whats the capital of japan". The facts of a family without a table
come from the function of its name in computed.py.

A program puts questions of mixed topics into conversations and adds what needs the turn before
("What did I just ask?", "Say it again in capitals.") or a system text ("Answer in one word.").

The test split measures: in a family with a table, facts in phrasings that training did not combine;
in a computed family, operands that training did not combine at all; the same holds for "And
Spain?". All questions of a conversation are of its split, so a follow-up is tested after questions
that training never saw. To extend the corpus, add a fact or a phrasing to a TOML file, or a new
file.
"""

from functools import cache
from typing import Any

from src.data.sample.conversations import conversations
from src.data.sample.questions import Question, normalised, questions

Row = dict[str, Any]


@cache
def sample_rows() -> tuple[Row, ...]:
    """Return all rows as {"messages", "family", "split"}, by split, in the order of the files.

    `family` is that of the last turn; `split` is "train", "validation" or "test". The same on every
    machine and in every run. Made once in a process: nobody may change a row. Raises ValueError
    when two questions ask the same thing.
    """
    seen: dict[str, Question] = {}
    for question in questions():
        other = seen.setdefault(normalised(question.prompt), question)
        if other is not question:
            raise ValueError(
                f"{question.prompt!r} ({question.family}) asks the same "
                f"as {other.prompt!r} ({other.family})"
            )
    rows = []
    for draft in conversations():
        messages = [{"role": "system", "content": draft.system}] if draft.system else []
        for prompt, response in draft.turns:
            messages.append({"role": "user", "content": prompt})
            messages.append({"role": "assistant", "content": response})
        rows.append({"messages": messages, "family": draft.family, "split": draft.split})
    return tuple(rows)
