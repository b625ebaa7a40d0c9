"""Every preset composes, and says what the README says it says."""

from dataclasses import asdict
from itertools import product

import pytest
from hydra import compose, initialize_config_dir

from src.command.cli import CONF
from src.data.order import Batching
from src.training.config import TrainConfig
from src.training.machine import Machine
from src.training.memory import TrainingStep, choose_micro_batch_size
from src.training.place import Place
from src.training.plan import flat
from tests.training.conftest import train_config

MACHINES = {24: "rtx4090", 40: "a100", 80: "h100"}  # by gigabytes


# n_layer, n_head, n_embd, n_positions, vocab_size, activation, initializer_range
SIZES = {
    "gpt2": (12, 12, 768, 1024, 50257, None, 0.02),
    "gpt2-medium": (24, 16, 1024, 1024, 50257, None, 0.02),
    "gpt2-large": (36, 20, 1280, 1024, 50257, None, 0.02),
    "gpt2-xl": (48, 25, 1600, 1024, 50257, None, 0.02),
    "tiny": (4, 4, 128, 256, 2400, "gelu_new", 0.08),
}


def presets(group: str) -> list[str]:
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    return [name for name in names if name != "base"]


EVERY = [
    *(
        f"{group}={name}"
        for group in ("hardware", "model", "generation", "objective")
        for name in presets(group)
    ),
    *(f"experiment={name}" for name in presets("experiment")),
    "data=chatbot_instruction_prompts",
    "data=sample",
]


@pytest.mark.parametrize("override", EVERY)
def test_every_preset_composes_to_a_checked_config(override):
    assert train_config(override).batch_size >= 1


def test_your_own_file_composes():
    assert train_config("data=file", "data.path=rows.jsonl").data.path == "rows.jsonl"


def test_the_sweep_lists_learning_rates_and_batch_sizes():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=["sweep=lr_batch_size"], return_hydra_config=True)
    assert set(config.hydra.sweeper.params) == {"optimizer.learning_rate", "batch_size"}
    assert config.hydra.mode.name == "MULTIRUN"


@pytest.mark.parametrize("name", presets("model"))
def test_a_size_is_what_its_name_says(name):
    model = train_config(f"model={name}").model
    shape = (model.n_layer, model.n_head, model.n_embd, model.n_positions, model.vocab_size)
    assert (*shape, model.activation, model.initializer_range) == SIZES[name]
    assert model.dropout == 0.0
    released = name != "tiny"
    assert model.pretrained == (f"openai-community/{name}" if released else None)
    assert model.tokenizer == ("openai-community/gpt2" if released else None)


def test_weights_bring_their_tokenizer(tmp_path):
    run, alone = tmp_path / "run", tmp_path / "alone"
    (run / "model").mkdir(parents=True)
    (run / "model" / "tokenizer.json").write_text("{}")
    alone.mkdir()

    def tokenizer(pretrained, *others):
        return train_config(f"model.pretrained={pretrained}", *others).model.tokenizer

    for own in (run, run / "model", "owner/name", tmp_path / "mistyped"):
        assert tokenizer(own) == str(own)
    for gpt2 in ("null", alone, "gpt2-xl"):
        assert tokenizer(gpt2) == "openai-community/gpt2"
    assert tokenizer(run, "model.tokenizer=other") == "other"


@pytest.mark.parametrize(
    ("hardware", "batch_size", "precision", "learning_rate", "warmup"),
    [("2080ti", 4, "16-mixed", 6e-5, 1000), ("a100", 32, "bf16-mixed", 2.5e-4, 500)],
)
def test_the_articles_machines(hardware, batch_size, precision, learning_rate, warmup):
    config = train_config(f"hardware={hardware}")
    assert config.batch_size == batch_size
    assert config.trainer.precision == precision
    assert config.optimizer.learning_rate == learning_rate
    assert config.optimizer.warmup_steps == warmup


@pytest.mark.parametrize("hardware", ["auto", "cpu", "mps", "h100", "rtx4090", "t4"])
def test_a_machine_alone_changes_neither_batch_nor_learning_rate(hardware):
    plain, config = train_config(), train_config(f"hardware={hardware}")
    assert config.batch_size == plain.batch_size
    assert config.optimizer == plain.optimizer


@pytest.mark.parametrize(
    ("experiment", "batch_size", "max_steps", "warmup"),
    [("article_2080ti", 4, 12_000, 1_000), ("article_a100", 32, 4_000, 500)],
)
def test_the_articles_runs_as_written(experiment, batch_size, max_steps, warmup):
    config = train_config(f"experiment={experiment}")
    assert (config.batch_size, config.max_steps) == (batch_size, max_steps)
    assert config.optimizer.warmup_steps == warmup
    assert config.optimizer.max_warmup_share == 1.0
    assert config.optimizer.decay_steps == 40_000
    assert config.optimizer.max_grad_norm is None
    assert config.trainer.precision == "16-mixed"
    assert (config.model.activation, config.model.dropout) == ("gelu", 0.1)
    assert (config.data.packing, config.data.supervise) == (False, "article")


LARGE = [
    (size, gigabytes) for size in ("gpt2-medium", "gpt2-large", "gpt2-xl") for gigabytes in MACHINES
]


def large(size: str, gigabytes: int) -> TrainConfig:
    """A size on a machine; where the machine decides more than itself, that is one preset."""
    if f"{size}_{gigabytes}gb" in presets("experiment"):
        return train_config(f"experiment={size}_{gigabytes}gb")
    return train_config(f"experiment={size}", f"hardware={MACHINES[gigabytes]}")


@pytest.mark.parametrize(("size", "gigabytes"), LARGE)
def test_a_large_model_fits_its_machine_with_a_tenth_to_spare(size, gigabytes):
    config = large(size, gigabytes)
    plain = train_config(f"model={size}", f"hardware={MACHINES[gigabytes]}")
    assert config.model == plain.model
    assert config.trainer.precision == "bf16-mixed"
    assert config.batch_size == 32
    memory = gigabytes * 10**9
    machine = Machine(Place(), "cuda", 8, memory, config.trainer.precision, "single")
    shape = config.model.shape(config.model.vocab_size)
    step = TrainingStep.of(config, machine, shape, shape.n_positions)
    assert config.micro_batch_size == "auto"
    at_most = choose_micro_batch_size(step, memory)
    num_blocks = Batching.of(config.batch_size, 1, at_most).micro_batch_size
    assert num_blocks >= 2
    assert step.memory(num_blocks).total <= 0.9 * memory


def test_only_where_the_whole_model_cannot_learn_do_adapters():
    ranks = {case: large(*case).lora.rank for case in LARGE}
    assert {case for case, rank in ranks.items() if rank} == {("gpt2-xl", 24)}


@pytest.mark.parametrize("size", ["gpt2-medium", "gpt2-large", "gpt2-xl"])
@pytest.mark.parametrize("hardware", ["rtx4090", "a100", "h100"])
def test_a_size_and_a_machine_are_named_together(size, hardware):
    """The size decides batch and learning rate; all else is the machine's, in either order."""
    config = train_config(f"experiment={size}", f"hardware={hardware}")
    assert config == train_config(f"hardware={hardware}", f"experiment={size}")
    machine = train_config(f"hardware={hardware}", f"model={size}")
    rates = {"gpt2-medium": 1.25e-4, "gpt2-large": 1e-4, "gpt2-xl": 8e-5}
    machine.optimizer.learning_rate = rates[size]
    assert config == machine


def test_an_experiment_wins_over_hardware_and_the_command_line_over_both():
    config = train_config("hardware=a100", "experiment=quickstart")
    assert config.batch_size == train_config("experiment=quickstart").batch_size
    assert train_config("experiment=quickstart", "batch_size=7").batch_size == 7


def test_every_data_preset_and_door_agrees_on_keys():
    from omegaconf import OmegaConf

    base = OmegaConf.load(CONF / "data" / "base.yaml")
    for name, key in product(presets("data"), base):
        own = OmegaConf.load(CONF / "data" / f"{name}.yaml")
        assert set(own) - {"defaults"} - set(base) == {"source"}, (name, key)


CHANGES = {
    "no_isolation": {"data.isolate_documents": False},
    "no_reset": {"data.reset_positions": False},
    "as_others": {"data.isolate_documents": False, "data.reset_positions": False},
    "prompts_0.1": {"data.prompt_loss_weight": 0.1},
    "prompts_1": {"data.prompt_loss_weight": 1.0},
    "dropout_0.1": {"model.dropout": 0.1},
    "no_packing": {"data.packing": False, "max_epochs": None, "max_steps": 282},
    "join_0.3": {"data.join_turns": 0.3},
}


def test_each_ablation_changes_one_thing_and_the_sweep_has_them_all():
    """As many seeds of each; the baseline is first: it is what the others are compared with."""
    own = ("data=file", "data.path=rows.jsonl")
    base = flat(asdict(train_config("experiment=ablations/base", *own)))
    for name, changes in CHANGES.items():
        settings = flat(asdict(train_config(f"experiment=ablations/{name}", *own)))
        assert {k: v for k, v in settings.items() if v != base[k]} == changes, name
    files = {path.stem for path in (CONF / "experiment" / "ablations").glob("*.yaml")}
    assert files == {"base", *CHANGES}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["sweep=ablations"], return_hydra_config=True)
    params = config.hydra.sweeper.params
    names = [name.strip().removeprefix("ablations/") for name in params["experiment"].split(",")]
    assert names[0] == "base"
    assert sorted(names) == sorted(files)
    assert params["seed"] == "1, 2, 3"
