"""A search goes on from its ``sweep.json``, and does nothing else that a stranger's says."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from src.command.cli import MISTAKES
from src.command.mistakes import one_line
from src.command.overrides import CONF
from src.errors import UserError
from src.sweeps.optuna_record import arguments_of, check_overrides
from src.sweeps.state import read_sweep, write_sweep
from src.train import around

pytest.importorskip("optuna", reason="needs the extra sweep: pip install '.[sweep]'")

from src.sweeps.grid import asked
from src.sweeps.optuna_record import OPTUNA


def begun(folder: Path, *typed: str) -> Path:
    """A search that has written down what it is, and was killed then."""
    (folder / "0_lr1e-4").mkdir(parents=True)
    found = asked("train", ["-m", "sweep=optuna", f"hydra.sweep.dir={folder}", *typed])
    write_sweep(folder, found.sweep)
    return folder


def resumed(folder: Path, *typed: str) -> list[str]:
    """The command line that Hydra composes."""
    context = around(["-m", f"resume={folder}", *typed])
    with pytest.raises(SystemExit), context as arguments:
        raise SystemExit(len(arguments))
    return arguments


def composed(arguments: list[str]):
    overrides = [argument for argument in arguments if argument != "-m"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=overrides, return_hydra_config=True)


def test_a_search_goes_on_as_it_was_begun(tmp_path):
    typed = [
        "experiment=quickstart",
        "batch_size=choice(4, 8)",
        "optimizer.learning_rate=tag(log, interval(1e-5, 1e-3))",
        "seed=7",
        "hydra.sweeper.n_trials=30",
        "hydra.sweeper.pruning.startup_trials=3",
        "hydra.sweeper.sampler.seed=null",
        "hydra/sweeper/sampler=random",
        "hydra.sweeper.study_name=our study",
    ]
    folder = begun(tmp_path / "search", *typed)
    assert read_sweep(folder).kind == OPTUNA
    assert read_sweep(folder).num_jobs == 30
    arguments = resumed(folder)
    for override in typed[:4]:
        assert override in arguments
    config = composed([a for a in arguments if "(" not in a])
    sweeper = config.hydra.sweeper
    assert (sweeper.n_trials, sweeper.study_name) == (30, "our study")
    assert (sweeper.pruning.startup_trials, sweeper.sampler.seed) == (3, None)
    assert sweeper.sampler._target_.endswith("RandomSampler")
    assert sweeper.storage == f"sqlite:///{folder}/study.db"
    assert config.seed == 7


def test_it_may_go_on_without_pruning_and_elsewhere(tmp_path):
    storage = f"sqlite:///{tmp_path}/all.db"
    typed = ["hydra.sweeper.pruning=null", f"hydra.sweeper.storage={storage}"]
    sweeper = composed(resumed(begun(tmp_path / "search", *typed))).hydra.sweeper
    assert (sweeper.pruning, sweeper.storage) == (None, storage)


@pytest.mark.parametrize(
    ("n_trials", "said"),
    [
        ("0", "n_trials=0: must be at least 1"),
        ("-1", "n_trials=-1: must be at least 1"),
        ("many", "hydra.sweeper.n_trials=many: Value 'many' of type 'str' could not be converted"),
    ],
)
def test_a_search_without_a_job_is_refused(n_trials, said, tmp_path):
    with pytest.raises(MISTAKES) as refused:
        begun(tmp_path / "search", f"hydra.sweeper.n_trials={n_trials}")
    assert said in one_line(refused.value)


def test_more_trials_are_asked_for_when_it_goes_on(tmp_path):
    folder = begun(tmp_path / "search")
    arguments = resumed(folder, "hydra.sweeper.n_trials=40", "hydra/launcher=joblib")
    assert composed(arguments).hydra.sweeper.n_trials == 40
    assert "hydra/launcher=joblib" in arguments
    assert read_sweep(folder).num_jobs == 40
    assert composed(resumed(folder)).hydra.sweeper.n_trials == 40


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.x._target_=os.system",
        "hydra.job.env_set.LD_PRELOAD=x",
        "hydra/launcher=joblib",
        "--multirun",
        "data.path=${oc.env:HOME}",
        "experiment=../../tmp/evil",
        "+x._target_=os.system",
        "~seed",
        "seed=1 hydra.verbose=true",
        7,
    ],
)
def test_what_a_strangers_record_may_not_say(tmp_path, override):
    folder = begun(tmp_path / "search")
    content = json.loads((folder / "sweep.json").read_text())
    content["extra"]["overrides"].append(override)
    (folder / "sweep.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="not a plain value of a setting"):
        arguments_of(folder, read_sweep(folder))


@pytest.mark.parametrize(
    "key", ["n_trials", "study_name", "storage", "pruning.startup_trials", "sampler.seed"]
)
def test_a_damaged_record_is_one_line(tmp_path, key):
    folder = begun(tmp_path / "search")
    content = json.loads((folder / "sweep.json").read_text())
    content["extra"]["sweeper"][key] = ["x"]
    (folder / "sweep.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is damaged"):
        arguments_of(folder, read_sweep(folder))


def test_ranges_and_presets_are_plain():
    check_overrides(
        ["experiment=quickstart", "data.columns.prompt='my question'", "model=gpt2,gpt2-medium"],
        Path("sweep.json"),
    )
