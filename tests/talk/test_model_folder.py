import json
import os
import subprocess
import sys

import pytest
import torch
import transformers

from src.data.tokenizer import train_tokenizer
from src.errors import UserError
from src.model.safetensors_file import save_file
from src.talk.assistant import Assistant
from src.talk.model_folder import load_model_folder, newest_model_folder, save_model_folder
from tests.conftest import greedy
from tests.model.conftest import random_model, tiny_config

GREEDY = greedy(12)


@pytest.fixture
def tokenizer():
    return train_tokenizer(["Hello there, how are you? I am fine: 1 2 3."] * 3, 300)


@pytest.fixture
def model(tokenizer):
    return random_model(tiny_config(vocab_size=tokenizer.vocab_size))


def test_what_is_saved_is_loaded(model, tokenizer, tmp_path):
    save_model_folder(tmp_path / "model", model, tokenizer, GREEDY)
    again = Assistant(*load_model_folder(str(tmp_path / "model")))
    prompts = ["Hello", "how are you?"]
    assert again.replies(prompts, GREEDY) == Assistant(model, tokenizer).replies(prompts, GREEDY)


def test_a_folder_of_runs_is_none_of_a_model_and_names_the_newest(model, tokenizer, tmp_path):
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed/run.json").write_text("{}")
    with pytest.raises(UserError, match="a folder of runs, none of which has a model yet"):
        load_model_folder(str(tmp_path))
    for age, name in enumerate(("new", "sweep/lr1", "old")):
        folder = tmp_path / name / "model"
        save_model_folder(folder, model, tokenizer, GREEDY)
        os.utime(folder, (10**9 - age, 10**9 - age))
    with pytest.raises(UserError) as caught:
        load_model_folder(str(tmp_path), key="model_path")
    assert str(caught.value) == (
        f"model_path={tmp_path} is a folder of 3 runs: name one; the newest is {tmp_path}/new"
    )
    assert load_model_folder(str(tmp_path / "old")).model.config == model.config
    with pytest.raises(UserError, match="is a run that has no model yet"):
        load_model_folder(str(tmp_path / "failed"))


def test_transformers_opens_the_folder_and_says_the_same(model, tokenizer, tmp_path):
    folder = tmp_path / "model"
    save_model_folder(folder, model, tokenizer, GREEDY)
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "how are you?"}]
    ids = their_tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
    out = theirs.generate(**ids)  # greedy and 12 tokens: as its generation_config says
    new = out[0, ids["input_ids"].shape[1] :]
    text = their_tokenizer.decode(new, skip_special_tokens=True).lstrip()
    assert text == Assistant(model, tokenizer).replies(["how are you?"], GREEDY)[0]


def test_others_may_read_the_folder_as_far_as_the_umask_lets_them(model, tokenizer, tmp_path):
    before = os.umask(0o022)
    try:
        for _ in range(2):  # new, and with new weights
            save_model_folder(tmp_path / "model", model, tokenizer, GREEDY)
            modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
            assert modes == {0o644}
            assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


def test_sampling_settings_are_written_for_others_to_use(model, tokenizer, tmp_path):
    sampling = greedy(30, temperature=0.7, top_k=50, top_p=0.9, seed=1)
    save_model_folder(tmp_path / "model", model, tokenizer, sampling)
    settings = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert settings["do_sample"] is True
    assert (settings["temperature"], settings["top_k"], settings["top_p"]) == (0.7, 50, 0.9)
    assert settings["eos_token_id"] == tokenizer.end_id


def test_no_limit_is_written_as_such(model, tokenizer, tmp_path):
    """transformers would take 50 for a top_k that is left out."""
    save_model_folder(tmp_path / "model", model, tokenizer, greedy(30, temperature=0.7))
    settings = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert (settings["top_k"], settings["top_p"]) == (0, 1.0)
    assert "min_p" not in settings  # transformers has none of its own


def test_min_p_is_written_under_hugging_faces_name(model, tokenizer, tmp_path):
    config = greedy(30, temperature=0.7, min_p=0.05)
    save_model_folder(tmp_path / "model", model, tokenizer, config)
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "model").min_p == 0.05


def test_a_save_that_fails_leaves_the_folder_that_was_there(
    model, tokenizer, tmp_path, monkeypatch
):
    folder = tmp_path / "model"
    save_model_folder(folder, model, tokenizer, GREEDY)
    before = model.wte.weight.detach().clone()

    def full_disk(*args, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr("src.model.pretrained.save_file", full_disk)
    with torch.no_grad():
        model.wte.weight.add_(1)
    with pytest.raises(OSError, match="No space"):
        save_model_folder(folder, model, tokenizer, GREEDY)
    assert torch.equal(load_model_folder(str(folder))[0].wte.weight, before)


def test_the_newest_run_is_the_one_whose_weights_were_written_last(model, tokenizer, tmp_path):
    folders = [tmp_path / name / "model" for name in ("b", "a", "sweep/0")]
    for age, folder in enumerate(folders):
        save_model_folder(folder, model, tokenizer, GREEDY)
        os.utime(folder / "model.safetensors", (1000 - age, 1000 - age))
    assert newest_model_folder(tmp_path) == folders[0]
    os.utime(folders[2] / "model.safetensors", (2000, 2000))
    assert newest_model_folder(tmp_path) == folders[2]


def test_without_any_run_it_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="make quickstart"):
        newest_model_folder(tmp_path / "outputs")


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(tokenizer, tmp_path):
    small = random_model(tiny_config(vocab_size=tokenizer.vocab_size - 1))
    save_model_folder(tmp_path / "model", small, tokenizer, GREEDY)
    with pytest.raises(UserError, match="its tokenizer has"):
        load_model_folder(str(tmp_path / "model"))


@pytest.mark.parametrize("kind", ["ours", "GPT-2's"])
def test_a_folder_that_tokenizers_reads_is_opened_without_transformers(
    model, tokenizer, tmp_path, kind
):
    save_model_folder(tmp_path / "model", model, tokenizer, GREEDY)
    if kind != "ours":
        bpe = json.loads((tmp_path / "model" / "tokenizer.json").read_text())["model"]
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / "model" / name).unlink()
        (tmp_path / "model" / "vocab.json").write_text(json.dumps(bpe["vocab"]))
        lines = "\n".join(map(" ".join, bpe["merges"]))
        (tmp_path / "model" / "merges.txt").write_text(lines + "\n")
    code = (
        "import sys; from src.talk.model_folder import load_model_folder;"
        f"load_model_folder({str(tmp_path / 'model')!r}); print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def inodes(folder) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def test_of_the_same_model_only_the_weights_are_written_and_what_a_person_edited_stays(
    model, tokenizer, tmp_path
):
    folder = tmp_path / "model"
    save_model_folder(folder, model, tokenizer, GREEDY)
    (folder / "generation_config.json").write_text('{"eos_token_id": 1}')
    (folder / "notes.txt").write_text("a person's own")
    before = inodes(folder)
    save_model_folder(folder, model, tokenizer, GREEDY)
    after = inodes(folder)
    assert {name for name in before if before[name] != after[name]} == {"model.safetensors"}
    assert (folder / "generation_config.json").read_text() == '{"eos_token_id": 1}'


@pytest.mark.parametrize("other", ["config", "tokenizer", "damage"])
def test_new_weights_never_meet_an_older_config_or_tokenizer(
    model, tokenizer, tmp_path, monkeypatch, other
):
    folder = tmp_path / "model"
    save_model_folder(folder, model, tokenizer, GREEDY)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if other == "config":
        model = random_model(tiny_config(vocab_size=tokenizer.vocab_size, n_layer=1))
    elif other == "tokenizer":
        tokenizer = train_tokenizer(["other words"], 257)
    else:
        (folder / "tokenizer.json").write_bytes(b"")
    seen = []

    def look(tensors, path, metadata):
        seen.append({path.name: path.read_bytes() for path in folder.iterdir()})
        save_file(tensors, path, metadata)

    monkeypatch.setattr("src.model.pretrained.save_file", look)
    save_model_folder(folder, model, tokenizer, GREEDY)
    if other != "damage":
        assert seen == [before]  # while the weights are written, a reader finds the older folder
    again = load_model_folder(str(folder))
    assert again.model.config == model.config
    assert again.tokenizer.fingerprint() == tokenizer.fingerprint()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_equal_weights_give_equal_folders(model, tokenizer, tmp_path):
    for name in "ab":
        save_model_folder(tmp_path / name, model, tokenizer, GREEDY)
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "ab"]
    assert files[0] == files[1]
