from src.data.report import OVER_MAX_ROWS, PromptOverlap, RowReport, normal_hash, normal_prompt


def test_prompts_are_the_same_but_for_case_spaces_and_punctuation():
    for other in (
        "what is  a teapot",
        "What is a teapot",
        "WHAT IS A TEA-POT?!",
        "What_is a teapot\n",
    ):
        assert normal_hash(other) == normal_hash("What is a teapot?"), other
    assert normal_hash("Où est l’été ?") == normal_hash("où est l'ÉTÉ")
    assert normal_hash("What is a teapot 2?") != normal_hash("What is a teapot?")
    assert normal_prompt("???") == b"???"  # of signs only: these are its text
    assert normal_hash("?") != normal_hash("!")


def test_prompts_that_train_has_too_are_counted_exactly_and_nearly():
    overlap = PromptOverlap()
    prompts = {
        "train": ["a b", "c", "c"],
        "validation": ["a b", "A, b!", "x", "a b"],
        "test": ["y"],
    }
    for split, texts in prompts.items():
        for text in texts:
            overlap.add([split], [text])
    assert overlap.counts() == {
        "validation": {"exactly": 2, "nearly": 3},
        "test": {"exactly": 0, "nearly": 0},
    }


def test_a_report_explains_its_commonest_reasons():
    report = RowReport()
    report.drop("tree", "a.json row 1", "columns prompt")
    report.drop("empty_prompt", "a.json row 2")
    report.drop("empty_prompt", "a.json row 3", "never shown")
    assert report.explain()[0] == "2 empty_prompt, first a.json row 2"
    assert report.explain()[1].startswith("1 tree, first a.json row 1: columns prompt: a tree of")
    assert len(report.explain(most=1)) == 1


def test_rows_that_a_person_leaves_out_are_no_problem():
    report = RowReport()
    for _ in range(5):
        report.drop(OVER_MAX_ROWS, "a.json row 9")
    report.drop("tree", "a.json row 1", "columns prompt")
    assert len(report.explain()) == 1
    assert report.dropped[OVER_MAX_ROWS] == 5


def test_what_is_not_used_is_counted_and_first_named():
    report = RowReport()
    report.not_used(["column id", "role x"], "a.json row 1")
    report.not_used(["column id"], "a.json row 2")
    assert report.unused == {"column id": 2, "role x": 1}
    assert report.first_unused == {"column id": "a.json row 1", "role x": "a.json row 1"}
    assert RowReport.from_json(report.to_json()) == report
