"""Facts that follow from a rule: sums, parity, and words to say again.

Each function yields `(unit, fact)`. The fact fills the phrasings of the TOML file of the same
name. All facts of a unit are in the same split: 3 + 8 and 8 + 3 are one unit, so if the test split
has one, training has neither, in no phrasing.
"""

from collections.abc import Callable, Iterator

from src.data.sample.split import pick, share

Fact = dict[str, str]


def addition() -> Iterator[tuple[str, Fact]]:
    """a + b below 100 where no digit carries, in both orders; all of one digit, most others."""
    for a in range(100):
        for b in range(a + 1):
            unit = f"{a} {b}"
            if a % 10 + b % 10 > 9 or a // 10 + b // 10 > 9:
                continue
            if a < 10 or share(f"pick {unit}") < 0.7:
                for x, y in dict.fromkeys([(a, b), (b, a)]):
                    yield unit, {"a": str(x), "b": str(y), "sum": str(a + b)}


def even_odd() -> Iterator[tuple[str, Fact]]:
    """The parity of 0..149."""
    for number in range(150):
        yield str(number), {"number": str(number), "parity": "odd" if number % 2 else "even"}


NUM_ECHOES = 1600
ECHO_WORDS = (
    "lemon bread house chair table music green friend school window garden orange yellow kitchen "
    "cat dog bird fish tree moon star rain snow apple honey water hot cold big small fast slow "
    "happy sad day night open full early late young old rich strong loud clean sweet red blue "
    "white black river book box bus baby city story leaf knife wolf hero child man foot mouse"
).split()


def echo() -> Iterator[tuple[str, Fact]]:
    """Two to six words in an order that means nothing."""
    texts = (
        " ".join(
            pick(ECHO_WORDS, f"echo {number} {i}")
            for i in range(2 + int(share(f"echo length {number}") * 5))
        )
        for number in range(NUM_ECHOES)
    )
    for words in dict.fromkeys(texts):
        yield words, {"words": words}


COMPUTED: dict[str, Callable[[], Iterator[tuple[str, Fact]]]] = {
    function.__name__: function for function in (addition, even_odd, echo)
}
