"""``hydra/sweeper=optuna_pruning``: Hydra takes sweepers from this package only.

Hydra imports this at every start, so what it needs is imported when a sweep begins. The values are
in ``conf/sweep/optuna.yaml``, the work is in ``src/sweeps/optuna_sweeper.py``.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import MISSING, DictConfig


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

        StudySweep(self.config, self.launcher, arguments).run()


@dataclass
class PruningConf:
    """When a job is pruned."""

    startup_trials: int = MISSING
    warmup_percent: int = MISSING


@dataclass
class PruningSweeperConf:
    """The keys of ``hydra.sweeper``; their values are in ``conf/sweep/optuna.yaml``."""

    _target_: str = f"{PruningSweeper.__module__}.{PruningSweeper.__name__}"
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
