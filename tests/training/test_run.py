"""A whole run: what it says before, what it leaves behind."""

import json
import logging
import re

import pytest
import torch

from src.errors import UserError
from src.model.pretrained import load_pretrained, save_pretrained
from src.objectives.sft import SFT, SFTModule
from src.training.best import BestModel
from src.training.machine import choose_precision
from tests.model.conftest import random_model, tiny_config
from tests.training.conftest import SMALL, curves, metrics, settings, train_config
from tests.training.test_resume import LAYOUT, Killed, assert_same_run, kill_at


def test_metrics_are_flat_and_complete(trained):
    figures = metrics(trained())
    expected = {
        *(f"{p}/{n}" for p in ("val", "best_val", "test") for n in ("loss", "accuracy")),
        *("val/perplexity", "best_val/perplexity", "test/perplexity", "best_step", "num_steps"),
        *("train_seconds", "num_tokens", "real_tokens_per_second", "utilisation"),
        "num_parameters",
    }
    expected |= {f"{p}/num_{n}" for p in ("val", "test") for n in ("rows", "scored_tokens")}
    expected |= {
        f"seconds/{phase}"
        for phase in "data model training validation replies saving test other".split()
    }
    assert set(figures) == expected
    assert all(isinstance(value, (int, float)) for value in figures.values())


def test_validation_comes_before_the_first_step_every_so_often_and_after_the_last(trained):
    assert sorted(curves(trained())["val/loss"]) == [0, 5, 10, 12]


def test_the_model_folder_holds_the_best_weights_and_not_the_last(small_run, monkeypatch):
    """Validation says: 5, 1, 9, 8. The folder must hold the weights of the second one."""
    losses = iter([5.0, 1.0, 9.0, 8.0])
    weights = {}
    original = BestModel.on_validation_end

    def hook(self, trainer, module):
        module.latest["val/loss"] = next(losses)
        weights[trainer.global_step] = module.model.wte.weight.detach().clone()
        original(self, trainer, module)

    monkeypatch.setattr(BestModel, "on_validation_end", hook)
    run = small_run()
    saved = load_pretrained(str(run / "model")).wte.weight
    assert torch.equal(saved, weights[5])
    assert not torch.equal(saved, weights[12])
    assert metrics(run)["best_val/loss"] == 1.0
    assert metrics(run)["best_step"] == 5


def test_one_batch_is_driven_to_zero_loss(tmp_path):
    from src.training.start import start_run

    corpora = f"data.corpus_dir={tmp_path / 'corpora'}"
    small = ("model.n_layer=2", "model.n_embd=64", "max_steps=150", "data.max_rows=8")
    config = train_config("experiment=overfit", corpora, *small, "sample_prompts=[]")
    start_run(config, SFT, tmp_path, [])
    assert curves(tmp_path)["train/loss"][150] < 0.02
    assert curves(tmp_path)["train/accuracy"][150] == 1.0


def test_the_preflight_report_says_what_will_happen(small_run, caplog):
    with caplog.at_level(logging.INFO):
        run = small_run("micro_batch_size=2")
    text = caplog.text
    for words in (
        "120 train",
        "12 (",  # steps
        "warmup 1 (8.3%)",
        "8 blocks = 4 x 2",
        "random weights",
        "cpu, 32-true",
        "about 0.0 GiB of",
        " beyond data.max_rows",
        str(run),
    ):
        assert words in text, words
    assert "rows left out" not in text  # nothing is wrong: they were asked to be


@pytest.mark.parametrize(("micro", "accumulates"), [(8, False), (4, True)])
def test_the_estimate_knows_whether_gradients_outlive_a_micro_batch(
    micro, accumulates, small_run, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        "src.training.start.check_memory", lambda step, *_: asked.append(step.accumulates) or []
    )
    small_run(f"micro_batch_size={micro}", "max_steps=1")
    assert asked == [accumulates]


def rows(tmp_path, num, **last):
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"question {i}", "response": f"answer {i} " * 6} for i in range(num)]
    path.write_text("\n".join(map(json.dumps, [*lines, *([last] if last else [])])))
    return ("data=file", f"data.path={path}", "data.block_size=64")


def test_it_warns_of_less_than_a_block_of_data(small_run, tmp_path, caplog):
    small_run(*rows(tmp_path, 1), "data.test_fraction=0", "data.validation_fraction=0")
    assert "less than one block of 64" in caplog.text


def test_it_says_how_many_rows_were_joined(small_run, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        small_run(*rows(tmp_path, 40), "data.block_size=256", "data.join_turns=1.0")
    assert re.search(r"those of train joined into [12]\d conversations", caplog.text)


def test_it_warns_of_padding_and_of_prompts_that_train_shares(small_run, tmp_path, caplog):
    own = rows(tmp_path, 40)
    again = tmp_path / "again.jsonl"
    again.write_bytes((tmp_path / "rows.jsonl").read_bytes())
    small_run(*own, "data.packing=false", f"data.test_split={again}")
    assert "set data.packing=true" in caplog.text
    assert "of 40 test rows have a prompt that is in train too" in caplog.text


def test_a_file_without_validation_or_test_rows_still_trains(small_run, tmp_path, caplog):
    run = small_run(*rows(tmp_path, 9), "data.test_fraction=0", "data.validation_fraction=0")
    assert "there are no validation rows" in caplog.text
    assert "test/loss" not in metrics(run)
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    saved = load_pretrained(str(run / "model")).state_dict()
    assert torch.equal(saved["wte.weight"], last["model.wte.weight"])  # the last are the best


def test_no_training_example_that_fits_is_a_mistake(small_run, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "long " * 200, "response": "b"}))
    with pytest.raises(UserError, match="no training example fits"):
        small_run("data=file", f"data.path={path}", "data.block_size=64")


def test_training_goes_on_from_a_hugging_face_folder(small_run, tmp_path, tokenizer):
    config = tiny_config(vocab_size=tokenizer.vocab_size, n_layer=1, n_embd=16, n_head=2)
    base = tmp_path / "base"
    base.mkdir()
    save_pretrained(random_model(config), base, end_id=tokenizer.end_id)
    tokenizer.save(base)
    run = small_run(f"model.pretrained={base}", f"model.tokenizer={base}", "max_steps=2")
    assert metrics(run)["num_parameters"] == load_pretrained(str(base)).num_parameters


def trainer_config(precision):
    return train_config(f"trainer.precision={precision}").trainer


def test_precision_is_what_the_device_is_good_at(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert choose_precision(trainer_config("auto"), "cuda") == "bf16-mixed"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert choose_precision(trainer_config("auto"), "cuda") == "16-mixed"
    assert choose_precision(trainer_config("auto"), "mps") == "32-true"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_precision(trainer_config("auto"), "cpu") == "bf16-mixed"
    assert choose_precision(trainer_config("32-true"), "cpu") == "32-true"
    with pytest.raises(UserError, match="16-mixed does not run on a CPU"):
        choose_precision(trainer_config("16-mixed"), "cpu")


NO_ROOM = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory"),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 109951162777600 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "numpy": MemoryError("std::bad_alloc"),
}


def run_out_of_memory(monkeypatch, above: int, from_step: int = 0, on: str = "cuda") -> None:
    original = SFTModule.training_step

    def hook(self, batch, batch_idx):
        if len(batch["input_ids"]) > above and self.trainer.global_step >= from_step:
            raise NO_ROOM[on]
        return original(self, batch, batch_idx)

    monkeypatch.setattr(SFTModule, "training_step", hook)


@pytest.mark.parametrize("on", NO_ROOM)
def test_a_first_step_that_has_no_room_starts_again_with_half_the_micro_batch(
    on, small_run, finished_run, monkeypatch, caplog
):
    more = ("max_steps=2", "trainer.val_every_n_steps=2")
    expected = finished_run("micro_batch_size=2", *more, folder="expected")
    run_out_of_memory(monkeypatch, above=2, on=on)
    run = small_run("micro_batch_size=8", *more)
    said = [record.message for record in caplog.records if "starting again" in record.message]
    assert [text.split("with ")[-1] for text in said] == [
        "micro_batch_size=4",
        "micro_batch_size=2",
    ]
    assert weights_of(run) == weights_of(expected)
    assert curves(run) == {**curves(expected), **only_speed(curves(run))}
    resumed = json.loads((run / "run.json").read_text())
    assert resumed["machine"]["micro_batch_size"] == 2


@pytest.mark.parametrize("on", NO_ROOM)
def test_a_later_step_that_has_no_room_is_a_mistake_that_loses_nothing(on, small_run, monkeypatch):
    run_out_of_memory(monkeypatch, above=2, from_step=7, on=on)
    with pytest.raises(
        UserError, match=r"ran out of memory with micro_batch_size=8: resume with a lower"
    ):
        small_run("micro_batch_size=8")


def weights_of(run) -> dict[str, bytes]:
    state = load_pretrained(str(run / "model")).state_dict()
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


def only_speed(tags: dict) -> dict:
    return {tag: points for tag, points in tags.items() if tag.startswith("perf/")}


def test_what_a_person_asked_for_is_never_written_to(tmp_path):
    """Not even what was left open: devices, block size, precision, micro-batch."""
    from src.training.start import start_run

    open_settings = ("data.block_size=null", "micro_batch_size=auto", "trainer.precision=auto")
    layout = [*SMALL, f"data.corpus_dir={tmp_path / 'corpora'}", *open_settings, "max_steps=1"]
    config, objective = settings(*layout)
    start_run(config, objective, tmp_path, layout)
    assert config == train_config(*layout)
    decided = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert decided["data.block_size"] == 256
    assert (decided["trainer.devices"], decided["micro_batch_size"]) == (1, 8)


@pytest.mark.slow
def test_a_run_that_started_again_smaller_goes_on_with_its_own_command_line(
    small_run, finished_run, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        run_out_of_memory(patch, above=2)
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            small_run(*LAYOUT, "micro_batch_size=8", folder="killed")
    recorded = json.loads((tmp_path / "killed" / "run.json").read_text())["overrides"]
    resumed = small_run(*recorded, "resume=auto", folder="killed")
    assert_same_run(resumed, finished_run(*LAYOUT, "micro_batch_size=2", folder="whole"))


def test_a_run_of_a_version_with_fewer_settings_goes_on(small_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, 8, "on_train_batch_end")
        with pytest.raises(Killed):
            small_run(*LAYOUT)
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    for key in ("objective.name", "trainer.deterministic"):
        del record["settings"][key]
    path.write_text(json.dumps(record))
    assert metrics(small_run(*LAYOUT, "resume=auto"))["num_steps"] == 12
