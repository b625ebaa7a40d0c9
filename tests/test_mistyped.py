"""What is typed in another way than a door reads it is answered with the way it does."""

import pytest

from src import chat, evaluate, export, serve, train
from src.benchmark.__main__ import benchmark, composed
from src.command.mistakes import no_key
from src.wording.nearest import nearest_path, path_question

# A key that does not exist, and the one that is meant; empty: nobody knows.
KEYS = [
    ("lr", "optimizer.learning_rate"),
    ("learning_rate", "optimizer.learning_rate"),
    ("optim.lr", "optimizer.learning_rate"),
    ("optimizer.lr", "optimizer.learning_rate"),
    ("optimiser.learning_rate", "optimizer.learning_rate"),
    ("optimizer/learning_rate", "optimizer.learning_rate"),
    ("learnign_rate", "optimizer.learning_rate"),
    ("bach_size", "batch_size"),
    ("batchsize", "batch_size"),
    ("batch-size", "batch_size"),
    ("Batch_Size", "batch_size"),
    ("batchSize", "batch_size"),
    ("bs", "batch_size"),
    ("LR", "optimizer.learning_rate"),
    ("precison", "trainer.precision"),
    ("trainer.batch_size", "batch_size"),
    ("max_step", "max_steps"),
    ("steps", "max_steps"),
    ("trainer.max_steps", "max_steps"),
    ("epochs", "max_epochs"),
    ("num_train_epochs", "max_epochs"),
    ("wd", "optimizer.weight_decay"),
    ("warmup", "optimizer.warmup_steps"),
    ("precision", "trainer.precision"),
    ("device", "trainer.accelerator"),
    ("block-size", "data.block_size"),
    ("gradient_accumulation_steps", "micro_batch_size"),
    ("sede", "seed"),
    ("dropout", "lora.dropout or model.dropout"),
    ("path", "data.path"),
    ("output_dir", "hydra.run.dir"),
    ("hydra.run.dri", "hydra.run.dir"),
    ("experimnt", "experiment"),
    ("brightness", ""),
]

# What is typed, and what the one line of the answer holds.
TRAIN = [
    ("lr=1e-4", "did you mean optimizer.learning_rate?"),
    ("bach_size=4", "did you mean batch_size?"),
    ("max_step=4", "did you mean max_steps?"),
    ("precision=32-true", "did you mean trainer.precision?"),
    ("hydra.run.dri=x", "did you mean hydra.run.dir?"),
    ("experimnt=quickstart", "did you mean experiment?"),
    ("brightness=3", "there is no key brightness; --help"),
    # with signs before it
    ("+lr=1e-4", "did you mean optimizer.learning_rate?"),
    ("++lr=1e-4", "did you mean optimizer.learning_rate?"),
    ("~lr", "did you mean ~optimizer.learning_rate?"),
    ("+trainer.max_step=4", "did you mean max_steps?"),
    ("+batch_size=4", "write batch_size=..., without the +"),
    ("+experiment=quickstart", "write experiment=quickstart, without the +"),
    ("~seed", "seed: it has no value"),
    # presets
    ("hardware=A100", "did you mean hardware=a100?"),
    ("hardware=a1000", "did you mean hardware=a100?"),
    ("hardware=4090", "did you mean hardware=rtx4090?"),
    ("hardware=gpu", "did you mean hardware=auto?"),
    ("experiment=quickstrat", "did you mean experiment=quickstart?"),
    ("model=medium", "did you mean model=gpt2-medium?"),
    ("model=openai-community/gpt2", "did you mean model=gpt2?"),
    ("model=zzz", "there is no preset model=zzz: there are gpt2, gpt2-large"),
    ("data=rows.jsonl", "did you mean data=file data.path=rows.jsonl?"),
    ("data=tatsu-lab/alpaca", "data.path=tatsu-lab/alpaca"),
    ("data=null", "there is no preset data=null: there are chatbot"),
    # values
    ("trainer.precision=bf16", "did you mean bf16-mixed?"),
    ("trainer.precision=16", "did you mean 16-mixed?"),
    ("trainer.strategy=dpp", "did you mean ddp?"),
    ("trainer.accelerator=cuda", "did you mean gpu?"),
    ("data.supervise=response", "did you mean responses?"),
    ("trainer.compile=ture", "did you mean trainer.compile=true?"),
    ("max_steps=10k", "did you mean 10000?"),
    ("max_steps=1e3", "did you mean 1000?"),
    ("max_steps=None", "did you mean null?"),
    ("sample_prompts=Hi", "must be a list, as in sample_prompts=[a,b]"),
    ("optimizer=adamw", "optimizer is a section of keys, such as optimizer.learning_rate"),
    ("batch_size=4,8", "several values are several runs: add -m"),
    ("seed=${oc.env:NOT_SET_HERE}", "seed: the environment has no variable NOT_SET_HERE"),
    ("seed=${batchsize}", "seed: ${batchsize} names no key: did you mean ${batch_size}?"),
    ("seed=${env:HOME}", "seed: there is no ${env:...}: did you mean oc.env?"),
    # as other programs write it
    ("--batch_size 4", "--batch_size 4: write batch_size=4"),
    ("--batch_size=4", "--batch_size=4: write batch_size=4"),
    ("--batch-size 4", "write batch_size=4"),
    ("-batch_size 4", "write batch_size=4"),
    ("-bs 4", "write batch_size=4"),
    ("\u2013batch_size 4", "write batch_size=4"),
    ("--bach_size 4", "write batch_size=4"),
    ("--lr=1e-4", "write optimizer.learning_rate=1e-4"),
    (
        "--lr 1e-4 --bs 8 seed=3",
        "--lr 1e-4 --bs 8: write optimizer.learning_rate=1e-4 batch_size=8",
    ),
    ("--optimizer.learning_rate 1e-4", "write optimizer.learning_rate=1e-4"),
    ("--hardware A100", "write hardware=a100"),
    ("--compile", "write trainer.compile=true"),
    ("--no-compile", "write trainer.compile=false"),
    ("--bf16", "write trainer.precision=bf16-mixed"),
    ("--cuda", "write trainer.accelerator=gpu"),
    ("--seed -1", "write seed=-1"),
    ("--resume", "write resume=..."),
    ("--frobnicate 3", "--frobnicate 3: there is no flag and no key frobnicate"),
    ("batch_size 4", "batch_size 4: write batch_size=4"),
    ("lr 1e-4 bs 8", "write optimizer.learning_rate=1e-4 batch_size=8"),
    ("batch_size:4", "write batch_size=4"),
    ("batch_size: 4", "write batch_size=4"),
    ("batch_size = 4", "write batch_size=4"),
    ("batch_size= 4", "write batch_size=4"),
    ("batch_size =4", "write batch_size=4"),
    ("batch_size==4", "write batch_size=4"),
    ("batch_size=4, seed=1", "write batch_size=4"),
    ("=4", "there is no key before the ="),
    ("--seed=", "write seed=..."),
    ("--", "--: arguments are key=value"),
    ("max_steps=1,000", "did you mean 1000?"),
    ("--config-name trian", "there is no config trian in the search path: did you mean train?"),
    ("batch_size", "batch_size: arguments are key=value: did you mean batch_size=...?"),
    ("quickstart", "did you mean experiment=quickstart?"),
    ("a100", "did you mean hardware=a100?"),
    # flags of Hydra
    ("--cfg jbo", "did you mean --cfg job?"),
    ("seed=1 --cfg", "--cfg: a value is missing, as in --cfg job"),
    ("--multirun=true", "--multirun takes no value"),
    ("--package model", "goes with --cfg"),
    ("-m seed=1,2 --cfg job", "-m and --cfg exclude each other"),
    ("--info seed=1 --cfg job", "--info and --cfg exclude each other"),
]


@pytest.fixture
def answer(door, monkeypatch):
    """Run a door up to its work; return the one line."""
    monkeypatch.setattr(train, "process_arguments", train.resume_arguments)

    def run(job, name: str, arguments: list[str], **options) -> str:
        code, out, err = door(job, name, *arguments, **options)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("error: ")
        return err

    return run


@pytest.mark.parametrize(("typed", "meant"), KEYS)
def test_a_mistyped_key_names_the_one_that_is_meant(typed, meant):
    hint = f": did you mean {meant}? " if meant else "; "
    assert no_key(typed, "train") == f"there is no key {typed}{hint}--help lists all keys"


def settings_only(config):
    train.read_settings(config)
    raise AssertionError("the settings were taken")


@pytest.mark.parametrize(("typed", "words"), TRAIN)
def test_training_says_how_it_is_written(answer, typed, words):
    said = answer(settings_only, "train", typed.split(" "), rewrite=train.resume_arguments)
    assert words in said


OTHERS = [
    (chat.chat, "chat", ["model=runs/x"], "did you mean model_path?"),
    (chat.chat, "chat", ["max_tokens=9"], "did you mean max_new_tokens?"),
    (chat.chat, "chat", ["tempreature=1"], "did you mean temperature?"),
    (chat.chat, "chat", ["--temperature", "0.7"], "write temperature=0.7"),
    (chat.chat, "chat", ["--prompt", "What's 1, 2?"], """write prompt='What'"'"'s 1, 2?'"""),
    (chat.chat, "chat", ["--prompt=Hi there"], "write prompt='Hi there'"),
    (chat.chat, "chat", ["generation=sampled"], "did you mean generation=sampling?"),
    (chat.chat, "chat", ["Who are you?"], 'a question is prompt="..."'),
    (chat.chat, "chat", ["prompt=x", "format=jsn"], "did you mean json?"),
    (chat.chat, "chat", ["-n", "3"], "write num_answers=3"),
    (serve.serve, "serve", ["-p", "8001"], "did you mean port=8001?"),
    (serve.serve, "serve", ["--port", "8001"], "write port=8001"),
    (serve.serve, "serve", ["prot=8001"], "did you mean port?"),
    (export.export, "export", ["dtype=q8", "format=gguf"], "did you mean q8_0?"),
    (export.export, "export", ["format=gguff"], "did you mean gguf?"),
    (export.export, "export", ["--force"], "write overwrite=true"),
    (evaluate.evaluate, "evaluate", ["split=dev"], "did you mean validation?"),
    (evaluate.evaluate, "evaluate", ["models=a,b"], "did you mean model_path?"),
    (evaluate.evaluate, "evaluate", ["--model_path", "a,b"], "write model_path=a,b"),
    (evaluate.evaluate, "evaluate", ["max_rows=9"], "did you mean data.max_rows?"),
    (benchmark, "benchmark", ["waht=train"], "did you mean what?"),
    (benchmark, "benchmark", ["what=trian"], "did you mean train?"),
]
FREE = {"chat": chat.FREE_TEXT, "serve": serve.FREE_TEXT, "evaluate": evaluate.FREE_TEXT}
REWRITE = {"chat": chat.check_arguments, "benchmark": composed}


@pytest.mark.parametrize(("job", "name", "arguments", "words"), OTHERS)
def test_other_doors_say_how_it_is_written(answer, job, name, arguments, words):
    options = {"free_text": FREE.get(name, ()), "rewrite": REWRITE.get(name, list)}
    assert words in answer(job, name, arguments, **options)


def test_a_file_alone_is_named_with_its_key(answer, tmp_path):
    (tmp_path / "my rows.jsonl").touch()
    said = answer(settings_only, "train", ["my rows.jsonl"])
    assert "did you mean data=file data.path='my rows.jsonl'?" in said
    (tmp_path / "weights").mkdir()
    said = answer(settings_only, "train", ["model=weights"])
    assert "did you mean model.pretrained=weights?" in said


@pytest.mark.parametrize(
    "typed",
    [
        ["--cfg", "job", "data.path=x", "seed=3"],
        ["data.path=x", "--cfg", "job", "seed=3"],
        ["data.path=x", "seed=3", "--cfg=job"],
        ["data.path=x", "--cfg=job", "seed=3", "--resolve"],
        ["data.path=x", "-c", "job", "seed=3"],
        ["-cjob", "data.path=x", "seed=3"],
        ["data.path=x", "--resolve", "seed=3", "--cfg", "job", "--package", "_global_"],
    ],
)
def test_flags_of_hydra_stand_anywhere(door, typed):
    """The benchmark puts ``data=file`` behind whatever stands last."""
    code, out, err = door(benchmark, "benchmark", *typed, rewrite=composed)
    assert (code, err) == (0, "")
    assert "seed: 3" in out
    assert "source: file" in out


def test_a_package_is_shown_wherever_it_stands(door):
    code, out, _ = door(
        benchmark, "benchmark", "seed=3", "-p", "lora", "--cfg", "job", "batch_size=8"
    )
    assert (code, out.splitlines()[1]) == (0, "rank: null")


@pytest.mark.parametrize("flag", ["--info", "--info=defaults"])
def test_info_is_shown_wherever_it_stands(door, flag):
    code, _, err = door(benchmark, "benchmark", flag, "data.path=x", rewrite=composed)
    assert code == 0, err


def test_the_config_that_is_shown_holds_the_free_text(door):
    given = ["prompt=What's a, b?", "--cfg", "job", "seed=3"]
    code, out, _ = door(chat.chat, "chat", *given, free_text=chat.FREE_TEXT)
    assert code == 0
    assert "prompt: What's a, b?" in out
    given = ["allow_origins=a,b", "--cfg", "job"]
    code, out, _ = door(serve.serve, "serve", *given, free_text=("allow_origins",))
    assert (code, "allow_origins: a,b" in out) == (0, True)


def test_a_preset_is_called_by_a_number(door, tmp_path):
    """One of a person's own, beside ours."""
    (tmp_path / "mine/hardware").mkdir(parents=True)
    (tmp_path / "mine/hardware/4090.yaml").write_text("# @package _global_\nseed: 9\n")
    seen = []
    given = [f"hydra.searchpath=[file://{tmp_path / 'mine'}]", "hardware=4090"]
    code, _, err = door(lambda config: seen.append(config.seed), "train", *given)
    assert (code, seen) == (0, [9]), err


def test_the_nearest_file_is_in_that_folder(tmp_path):
    for name in ("rows.jsonl", "prompts.txt", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more/rows.csv").touch()
    found = {
        "rws.jsonl": "rows.jsonl",
        "Rows.JSONL": "rows.jsonl",
        "prompts": "prompts.txt",
        "mroe/rows.csv": "more/rows.csv",
        "more/row.csv": "more/rows.csv",
        "hidden": None,
        "nothing/like/it": None,
    }
    for typed, expected in found.items():
        path = None if expected is None else str(tmp_path / expected)
        assert nearest_path(tmp_path / typed) == path, typed


def test_a_path_with_a_blank_can_be_pasted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my rows.jsonl").touch()
    assert path_question("my rosw.jsonl") == ": did you mean 'my rows.jsonl'?"


def test_a_mistyped_file_is_answered_with_the_one_beside_it(answer, tmp_path):
    (tmp_path / "runs/first").mkdir(parents=True)
    text = ("model_path", "checkpoint", "output")
    for key, typed in (("checkpoint", "runs/frist"), ("model_path", "./rnus/first")):
        said = answer(export.export, "export", [f"{key}={typed}"], free_text=text)
        assert "did you mean runs/first?" in said


def test_a_text_alone_has_the_key_that_its_door_says(door, tmp_path):
    seen = []
    (tmp_path / "a=b").touch()
    for given in (["runs/x, y"], ["device=cpu", "a=b"]):
        options = {"free_text": ("model_path",), "alone": "model_path"}
        code, _, err = door(
            lambda config, **text: seen.append(config.model_path), "chat", *given, **options
        )
        assert code == 0, err
    assert seen == ["runs/x, y", "a=b"]
