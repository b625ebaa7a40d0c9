"""The table on the terminal: its columns, whatever stands in them."""

import math

from src.evaluation.comparison import Comparison, Difference
from src.evaluation.intervals import Interval
from src.evaluation.table import table_lines

FIRST = ("10.8123", "49,627.10", "100.00%", "5.00", "22.2")


def lines_of(*models: dict[str, Interval], sentences: tuple[str, ...] = ()) -> list[str]:
    names = [f"model_{i}" for i in range(len(models))]
    return table_lines(names, Comparison(list(models), {}, [], []), sentences)


def test_values_and_intervals_stand_under_each_other():
    figures = {
        "loss": Interval(10.8123, 10.7, 10.9),
        "perplexity": Interval(49627.1, 44355.9, 54176.4),
        "accuracy": Interval(1.0, 0.982, 1.0),
        "reply_words": Interval(22.2, 9.75, 30.0),
        "chrf": Interval(5.0, math.nan, math.nan),
    }
    _, head, *lines = lines_of(figures, figures)
    assert [line.split() for line in lines] == [
        [*"loss (nats a token)".split(), *["10.8123", "10.700..10.900"] * 2],
        ["perplexity", *["49,627.10", "44,356..54,176"] * 2],
        ["accuracy", *["100.00%", "98.2..100.0"] * 2],
        ["chrF", "5.00", "5.00"],
        [*"words a reply".split(), *["22.2", "9.8..30.0"] * 2],
    ]
    assert {len(line) for line in lines if ".." in line} == {len(head)}
    ends = [line.index(value) + len(value) for line, value in zip(lines, FIRST, strict=True)]
    assert len(set(ends)) == 1


def test_a_row_fits_100_columns():
    figures = {"perplexity": Interval(9.9e6, 9.8e6, math.inf)}
    assert max(map(len, lines_of(*[figures] * 5))) <= 100


def test_one_empty_line_ends_a_table_without_sentences():
    assert lines_of({"loss": Interval(1.0, 0.9, 1.1)})[-1] != ""
    assert lines_of({}, sentences=("So it is.",))[-2:] == ["", "- So it is."]


def test_a_star_marks_the_best_where_another_is_certainly_worse():
    figures = {"loss": Interval(1.0, 0.9, 1.1), "chrf": Interval(5.0, 4.0, 6.0)}
    far = Difference(1, Interval(0.1, 0.05, 0.15), certain=True, same=False, num_rows=50)
    near = Difference(0, Interval(0.1, -0.05, 0.15), certain=False, same=False, num_rows=50)
    comparison = Comparison([figures, figures], {"loss": {0: far}, "chrf": {1: near}}, [], [])
    _, _, loss, chrf, _, legend = table_lines(["a", "b"], comparison, [])
    assert loss.split()[-4:] == ["1.0000", "0.900..1.100", "1.0000*", "0.900..1.100"]
    assert "*" not in chrf
    assert legend.startswith("*: the best")
