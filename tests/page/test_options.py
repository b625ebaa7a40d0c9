import json

import pytest

from src.page.options import sample_prompts


def test_the_page_starts_with_the_questions_of_the_models_run(folders, tmp_path):
    assert sample_prompts(folders[0]) == []
    record = {"settings": {"sample_prompts": ["Who are you?"]}}
    (tmp_path / "first" / "run.json").write_text(json.dumps(record))
    assert sample_prompts(folders[0]) == ["Who are you?"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        pytest.param("[" * 100_000, id="deep"),
        "[]",
        "{}",
        '{"settings": null}',
        '{"settings": {"sample_prompts": [1]}}',
        "\udcff",
    ],
)
def test_a_foreign_record_gives_no_questions_and_one_line(folders, tmp_path, capsys, text):
    record = tmp_path / "first" / "run.json"
    record.write_text(text, errors="surrogateescape")
    assert sample_prompts(folders[0]) == []
    err = capsys.readouterr().err
    assert str(record) in err
    assert err.count("\n") == 1


def test_a_record_is_found_in_the_home_folder(folders, tmp_path, monkeypatch):
    record = {"settings": {"sample_prompts": ["Who are you?"]}}
    (tmp_path / "first" / "run.json").write_text(json.dumps(record))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sample_prompts("~/first/model") == ["Who are you?"]
