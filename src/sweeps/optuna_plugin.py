"""``hydra/sweeper=optuna_pruning``, made known to Hydra.

The door imports this at every start, so what a search needs is imported when one begins. The values
are in ``conf/sweep/optuna.yaml``, the work is in ``src/sweeps/optuna_sweeper.py``.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import MISSING, DictConfig

from src.sweeps.optuna_record import SWEEPER


class PruningSweeper(Sweeper):
    """Hydra's Optuna sweeper, with a study that prunes jobs and is gone on with."""

    def __init__(self, **settings: Any):
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from src.sweeps.optuna_sweeper import StudySweep

        assert self.config is not None
        assert self.launcher is not None
        StudySweep(self.config, self.launcher, arguments).run()


@dataclass
class PruningConf:
    """When a job is pruned."""

    startup_trials: int = MISSING
    warmup_percent: int = MISSING


@dataclass
class PruningSweeperConf:
    """The keys of ``hydra.sweeper``; their values are in ``conf/sweep/optuna.yaml``."""

    _target_: str = SWEEPER
    _recursive_: bool = False  # the sampler is made for each trial
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}])
    sampler: Any = MISSING  # hydra/sweeper/sampler: of hydra-optuna-sweeper
    storage: str = MISSING
    study_name: str | None = MISSING
    n_trials: int = MISSING
    n_jobs: int | None = MISSING
    pruning: PruningConf | None = MISSING
    params: dict[str, str] | None = MISSING
    trial: int | None = None  # of a job; the sweeper sets it


ConfigStore.instance().store(
    group="hydra/sweeper", name="optuna_pruning", node=PruningSweeperConf, provider="gpt2-chat"
)


def register() -> None:
    """Make the sweeper known to Hydra in this process.

    Hydra finds plugins by itself in the package ``hydra_plugins`` only, and makes none that is not
    named after it. Jobs in other processes need the config alone, which Hydra hands to them.
    """
    plugins = Plugins.instance()
    plugins.register(PruningSweeper)
    plugins.class_name_to_class[SWEEPER] = PruningSweeper
