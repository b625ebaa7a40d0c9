"""What a person reads after a run."""

from src.training.summary import wall_time


def test_a_number_and_its_unit_stay_in_one_line():
    names = ("starting", "training", "saving", "replies", "data", "validation", "model", "test")
    for letters in range(12):  # wherever the line ends
        figures = {f"seconds/{name}": 1.5 for name in names} | {"seconds/x" + "x" * letters: 2.5}
        lines = wall_time(figures)
        assert max(map(len, lines)) <= 100
        assert not [line for line in lines[1:] if line.split()[0] in ("s,", "s", "min", "min,")]
        assert " 1.5 s" in lines[0]
