"""Facts that follow from a rule: sums and parity.

Each function yields `(unit, fact)`. The fact fills the phrasings of the TOML file of the same
name. All facts of a unit are in the same split: 3 + 8 and 8 + 3 are one unit, so if the test split
has one, training has neither, in no phrasing.
"""

from collections.abc import Callable, Iterator

from src.data.sample.split import share

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


COMPUTED: dict[str, Callable[[], Iterator[tuple[str, Fact]]]] = {
    function.__name__: function for function in (addition, even_odd)
}
