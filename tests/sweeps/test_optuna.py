"""A search: its study is the record, behind jobs are pruned, and a kill costs no trial."""

import contextlib
from collections import Counter
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from src.command.overrides import CONF
from src.errors import UserError
from src.training.status import FAILED, FINISHED, RUNNING, StatusFile

optuna = pytest.importorskip("optuna", reason="needs the extra sweep: pip install '.[sweep]'")

from src.sweeps.optuna_sweeper import StudySweep, as_text, search_space  # noqa: E402
from src.sweeps.pruning import JobTrial  # noqa: E402
from src.sweeps.study import open_storage, study_name  # noqa: E402

NUM_STEPS = 100
FEW = ("hydra.sweeper.n_trials=9", "hydra.sweeper.pruning.startup_trials=2")
SPACE = ["optimizer.learning_rate=tag(log, interval(1e-5, 1e-1))", "batch_size=choice(8, 16)"]


def sweep_config(folder: Path, *overrides: str) -> DictConfig:
    typed = ["sweep=optuna", f"hydra.sweep.dir={folder}", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=typed, return_hydra_config=True)


def job_trial(hydra: DictConfig, folder: Path, number: int, name: str) -> JobTrial:
    """What a job finds in its config."""
    sweeper = OmegaConf.to_container(hydra.sweeper, resolve=True)
    sweeper |= {"trial": number, "study_name": name.strip('"')}
    job = OmegaConf.create({"sweep": {"dir": hydra.sweep.dir}, "sweeper": sweeper})
    return JobTrial.of_job(job, folder)


class Kill(BaseException):
    """The end of the process that sweeps."""


class Jobs:
    """A launcher whose jobs write down at once what a training would have.

    Args:
        config: of the sweep.
        kill_in: the trial in whose job the whole process ends, after its first validation.
        fail_in: trials whose settings are refused.
    """

    def __init__(self, config: DictConfig, kill_in: int | None = None, fail_in: tuple = ()):
        self.hydra, self.kill_in, self.fail_in = config.hydra, kill_in, fail_in
        self.launched: list[dict[str, str]] = []

    def launch(self, job_overrides, initial_job_idx):
        for overrides in job_overrides:
            values = dict(o.split("=", 1) for o in overrides)
            self.launched.append(values)
            self.train(values)
        return []

    def train(self, values: dict[str, str]) -> None:
        number = int(values["hydra.sweeper.trial"])
        folder = Path(self.hydra.sweep.dir) / values.get("hydra.sweep.subdir", f"job{number}")
        folder.mkdir(exist_ok=True)
        trial = job_trial(self.hydra, folder, number, values["hydra.sweeper.study_name"])
        status = StatusFile(folder)
        status.write(state=RUNNING)
        if number in self.fail_in:
            status.write(state=FAILED, reason="batch_size=0: must be at least 1")
            return
        loss = abs(float(values["optimizer.learning_rate"]) - 1e-2)
        for step in (50, NUM_STEPS):
            reason = trial.find_better(step, NUM_STEPS, loss)
            if number == self.kill_in and "resume" not in values:
                raise Kill
            if reason:
                status.write(state=FINISHED, reason=f"pruned at step {step}: {reason}")
                return
        status.write(state=FINISHED, best_val_loss=loss)


def sweep(folder: Path, *overrides: str, arguments=SPACE, **jobs) -> tuple[Jobs, list]:
    config = sweep_config(folder, *overrides)
    launcher = Jobs(config, **jobs)
    with contextlib.suppress(Kill):
        StudySweep(config, launcher, arguments).run()
    return launcher, trials(folder)


def trials(folder: Path) -> list:
    storage = open_storage(f"sqlite:///{folder}/study.db")
    return optuna.load_study(study_name(storage, "", folder.name, folder), storage).trials


def states(found: list) -> Counter:
    return Counter(trial.state.name for trial in found)


def test_a_sweep_has_as_many_trials_as_asked_for_and_prunes_those_behind(tmp_path):
    _, found = sweep(tmp_path / "sweep", *FEW)
    assert len(found) == 9
    assert states(found)["PRUNED"] >= 2
    assert states(found).keys() == {"COMPLETE", "PRUNED"}
    by_state = {name: [t for t in found if t.state.name == name] for name in states(found)}
    assert all(t.last_step == 50 for t in by_state["PRUNED"])
    assert all(t.number >= 2 for t in by_state["PRUNED"])  # none before others have ended
    result = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    assert result.best_value == min(t.value for t in by_state["COMPLETE"])


def test_without_pruning_every_job_comes_to_its_end(tmp_path):
    _, found = sweep(tmp_path / "sweep", *FEW[:1], "hydra.sweeper.pruning=null")
    assert states(found) == {"COMPLETE": 9}


@pytest.mark.slow
def test_a_kill_costs_no_trial(tmp_path):
    """The one that was cut off goes on in its folder, and the proposals are the same."""
    sweep(tmp_path / "killed", *FEW, kill_in=4)
    assert states(trials(tmp_path / "killed"))["RUNNING"] == 1
    launcher, found = sweep(tmp_path / "killed", *FEW)
    assert len(found) == 9
    assert "RUNNING" not in states(found)
    first = launcher.launched[0]
    assert (first["hydra.sweeper.trial"], first["hydra.sweep.subdir"]) == ("4", "job4")
    assert first["resume"] == f"{tmp_path}/killed/job4"
    assert [int(values["hydra.sweeper.trial"]) for values in launcher.launched] == [*range(4, 9)]
    _, whole = sweep(tmp_path / "whole", *FEW)
    assert [(t.params, t.state, t.value) for t in found] == [
        (t.params, t.state, t.value) for t in whole
    ]


def test_a_sweep_that_is_done_launches_nothing(tmp_path):
    sweep(tmp_path / "sweep", "hydra.sweeper.n_trials=3")
    launcher, found = sweep(tmp_path / "sweep", "hydra.sweeper.n_trials=3")
    assert (launcher.launched, len(found)) == ([], 3)
    launcher, found = sweep(tmp_path / "sweep", "hydra.sweeper.n_trials=5")
    assert (len(launcher.launched), len(found)) == (2, 5)


def test_a_job_that_ended_before_the_study_heard_of_it_is_not_trained_again(tmp_path):
    folder = tmp_path / "sweep"
    sweep(folder, "hydra.sweeper.n_trials=2", kill_in=1)
    StatusFile(folder / "job1").write(state=FINISHED, best_val_loss=0.5)
    launcher, found = sweep(folder, "hydra.sweeper.n_trials=2")
    assert launcher.launched == []
    assert (found[1].state.name, found[1].value) == ("COMPLETE", 0.5)


def test_a_kill_between_proposal_and_launch_leaves_no_trial_running(tmp_path):
    folder = tmp_path / "sweep"
    sweep(folder, "hydra.sweeper.n_trials=1")
    study = optuna.load_study("sweep", open_storage(f"sqlite:///{folder}/study.db"))
    study.ask()
    _, found = sweep(folder, "hydra.sweeper.n_trials=3")
    assert states(found) == {"COMPLETE": 3}


def test_a_failed_job_stops_nothing_and_says_why(tmp_path):
    _, found = sweep(tmp_path / "sweep", "hydra.sweeper.n_trials=4", fail_in=(0, 2))
    assert [t.state.name for t in found] == ["FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    assert found[0].user_attrs["reason"] == "batch_size=0: must be at least 1"


def test_a_launcher_that_cannot_start_jobs_ends_the_sweep(tmp_path):
    config = sweep_config(tmp_path / "sweep")
    launcher = Jobs(config)

    def launch(*_):
        raise RuntimeError("no sbatch here")

    launcher.launch = launch
    with pytest.raises(RuntimeError, match="no sbatch"):
        StudySweep(config, launcher, SPACE).run()


def test_a_job_whose_process_was_killed_fails_alone(tmp_path):
    config = sweep_config(tmp_path / "sweep", "hydra.sweeper.n_trials=3")
    launcher = Jobs(config)
    train = launcher.train

    def killed(values):
        train(values)
        if values["hydra.sweeper.trial"] == "1":
            StatusFile(tmp_path / "sweep" / "job1").write(state=RUNNING)  # nobody holds its lock
            raise RuntimeError("a worker process was killed")

    launcher.train = killed
    StudySweep(config, launcher, SPACE).run()
    found = trials(tmp_path / "sweep")
    assert [t.state.name for t in found] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert found[1].user_attrs["reason"] == "a worker process was killed"


def test_sweeps_that_share_a_study_leave_each_others_jobs_alone(tmp_path):
    shared = [f"hydra.sweeper.storage=sqlite:///{tmp_path}/all.db", "hydra.sweeper.study_name=ours"]
    sweep_in = tmp_path / "one", "hydra.sweeper.n_trials=2", *shared
    config = sweep_config(*sweep_in)
    with pytest.raises(Kill):
        StudySweep(config, Jobs(config, kill_in=1), SPACE).run()
    config = sweep_config(tmp_path / "two", "hydra.sweeper.n_trials=4", *shared)
    launcher = Jobs(config)
    StudySweep(config, launcher, SPACE).run()
    assert [values["hydra.sweeper.trial"] for values in launcher.launched] == ["2", "3"]


def test_a_sweep_folder_with_another_name_keeps_its_study(tmp_path):
    sweep(tmp_path / "before", "hydra.sweeper.n_trials=2")
    (tmp_path / "before").rename(tmp_path / "after")
    config = sweep_config(tmp_path / "after", "hydra.sweeper.n_trials=3")
    launcher = Jobs(config)
    StudySweep(config, launcher, SPACE).run()
    assert len(launcher.launched) == 1


def test_runs_of_unequal_length_are_compared_at_the_same_share(tmp_path):
    folder = tmp_path / "sweep"
    sweep(folder, "hydra.sweeper.n_trials=5")  # all to their end, validated at 50%
    config = sweep_config(folder, "hydra.sweeper.n_trials=6")
    launcher = Jobs(config)

    def train(values):
        (folder / "long").mkdir()
        trial = job_trial(config.hydra, folder / "long", 5, "sweep")
        assert trial.find_better(1999, 4000, 99.0) is None  # 49%: the others had not looked there
        assert trial.find_better(2000, 4000, 99.0) is not None
        StatusFile(folder / "long").write(state=FINISHED, reason="pruned")

    launcher.train = train
    StudySweep(config, launcher, SPACE).run()
    assert trials(folder)[5].intermediate_values == {40: 99.0, 50: 99.0}


def test_a_job_goes_on_when_its_study_is_gone(tmp_path, caplog):
    sweep(tmp_path / "sweep", "hydra.sweeper.n_trials=1")
    storage = open_storage(f"sqlite:///{tmp_path}/sweep/study.db")
    trial = JobTrial(storage, "sweep", 0, None)
    (tmp_path / "sweep" / "study.db").write_bytes(b"nothing")
    storage.engine.dispose()
    assert [trial.find_better(step, 100, 1.0) for step in (10, 20)] == [None, None]
    assert caplog.text.count("cannot be reached") == 1


@pytest.mark.parametrize("url", ["study.db", "sqlite:////dev/null/study.db", "postgresql://h/db"])
def test_a_storage_that_is_none_is_one_line(url):
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage="):
        open_storage(url)


def test_a_file_of_something_else_is_one_line(tmp_path):
    (tmp_path / "study.db").write_text("no study at all, but some text that is long enough" * 9)
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage="):
        open_storage(f"sqlite:///{tmp_path}/study.db")


def test_the_command_line_wins_over_the_preset():
    preset = {"optimizer.learning_rate": "interval(1e-5, 1e-3)", "batch_size": "choice(8, 16)"}
    space, fixed = search_space(preset, ["batch_size=4", "+x='a b'", "model.dropout=0.0,0.1"])
    assert space.keys() == {"optimizer.learning_rate", "model.dropout"}
    assert fixed == ["batch_size=4", "+x='a b'"]
    assert space["model.dropout"].choices == (0.0, 0.1)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("a=1", "nothing is searched"),
        ("a=tag(log, interval(0.0, 1.0))", "a=tag"),
        ("a=interval(2.0, 1.0)", "a=interval"),
    ],
)
def test_what_cannot_be_searched_is_one_line(argument, said):
    with pytest.raises(UserError, match=said):
        search_space({}, [argument])


def test_proposals_are_what_hydra_reads():
    values = [None, True, 3, 0.25, 1e-05, "'a b'"]
    assert [as_text(value) for value in values] == ["null", "true", "3", "0.25", "1e-05", "'a b'"]
