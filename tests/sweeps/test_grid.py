"""What a command line asks for is known before the first run starts."""

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

import src.sweeps.job  # noqa: F401 - names the folders
from src.command.cli import run_name
from src.errors import UserError
from src.sweeps.grid import asked, may_be_sweep

LR = "optimizer.learning_rate"


@pytest.fixture(autouse=True)
def _resolvers():
    OmegaConf.register_new_resolver("run_name", run_name, use_cache=True, replace=True)


def jobs(*arguments):
    return asked("train", ["-m", *arguments]).sweep.jobs


def test_each_combination_is_a_run_with_its_values_and_settings():
    found = asked("train", ["-m", "seed=3", f"{LR}=5e-3,6e-5", "batch_size=4,8"])
    assert [job.folder for job in found.sweep.jobs] == [
        "lr5e-3_bs4",
        "lr5e-3_bs8",
        "lr6e-5_bs4",
        "lr6e-5_bs8",
    ]
    assert found.sweep.jobs[1].values == {LR: 0.005, "batch_size": 8}
    assert found.sweep.num_jobs == 4
    settings = found.sweep.settings("lr6e-5_bs8")
    assert (settings["batch_size"], settings["seed"]) == (8, 3)
    assert settings["optimizer"]["learning_rate"] == 6e-5
    assert settings["optimizer"]["betas"] == [0.9, 0.95]
    assert str(found.folder).startswith("outputs/train/")
    assert "hydra" not in settings


@pytest.mark.parametrize(
    ("arguments", "swept"),
    [
        ((f"{LR}=5e-3,0.005", "seed=1,2"), ["seed"]),
        (("+mine.more=1,2", "hydra.verbose=false", "hydra.sweep.dir=x"), ["mine.more"]),
        (("batch_size=8,'8'", "seed=1,2"), ["seed"]),
        (("seed=1", "batch_size=4,8"), ["batch_size"]),
        (("seed=1",), []),
        (("seed=1,1",), []),
        (("data=sample,file", "data.path=x"), ["data"]),
        (("model=tiny,gpt2", "seed=range(2)"), ["model", "seed"]),
        (("exact_match=true,false",), ["exact_match"]),
        (("max_steps=null,5",), ["max_steps"]),
        (("optimizer.betas=[0.9,0.95],[0.9,0.999]",), ["optimizer.betas"]),
    ],
)
def test_only_what_differs_counts_as_swept(arguments, swept):
    found = jobs(*arguments)
    assert list(found[0].values) == swept
    assert len({job.folder for job in found}) == len(found)


def test_a_preset_is_a_grid_too():
    found = asked("train", ["sweep=lr_batch_size"])
    assert set(found.sweep.jobs[0].values) == {LR, "batch_size"}
    assert len(found.sweep.jobs) == found.sweep.num_jobs > 1


def test_a_preset_of_a_run_brings_its_settings():
    first, second = jobs("model=tiny,gpt2", "batch_size=4")
    assert (first.values, second.values) == ({"model": "tiny"}, {"model": "gpt2"})
    assert set(second.changes) == {"model"}


def test_what_is_refused_later_is_a_run_all_the_same():
    found = jobs("batch_size=0,4,abc")
    assert [job.folder for job in found] == ["bs0", "bs4", "bs-abc"]
    assert jobs("data.path='${nothing}',x", "data=file")[0].changes == {}


@pytest.mark.parametrize("arguments", [["seed=1"], ["-m", "--cfg", "job"], ["--help"]])
def test_one_run_is_no_sweep(arguments):
    assert asked("train", arguments) is None


def test_only_what_may_be_a_sweep_is_composed():
    assert may_be_sweep(["-m"])
    assert may_be_sweep(["sweep=seeds"])
    assert not may_be_sweep(["seed=1", "experiment=quickstart"])


@pytest.mark.parametrize("argument", ["model=tiny,nosuch", "bach_size=1,2"])
def test_a_preset_or_key_that_does_not_exist_is_said_before_anything_starts(argument):
    with pytest.raises(HydraException):
        jobs(argument)


def test_presets_of_another_folder_are_found(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [tiny]\n")
    found = asked("train", ["-m", "--config-dir", str(tmp_path), "model=mine,tiny"])
    assert [job.folder for job in found.sweep.jobs] == ["model-mine", "model-tiny"]


def test_a_name_that_a_person_typed_for_the_folders_counts():
    found = jobs("seed=1,2", "hydra.sweep.subdir=a_${hydra.job.num}_${seed}")
    assert [job.folder for job in found] == ["a_0_1", "a_1_2"]
    with pytest.raises(UserError, match="two runs would share a folder"):
        jobs("seed=1,2", "hydra.sweep.subdir=here")
