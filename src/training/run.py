"""One training run: fit, validate, test, write down."""

import logging
import sys
import textwrap
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src import phases, signals
from src.data.datamodule import ChatDataModule
from src.data.targets import Labels
from src.errors import UserError
from src.files import atomic
from src.free_cores import load_now
from src.free_memory import out_of_memory
from src.model.gpt2 import GPT2
from src.shared_cores import Follower
from src.training import finished
from src.training.best import BestModel, check_patience
from src.training.card import Card
from src.training.checkpoints import Checkpoints, find_checkpoint
from src.training.config import TrainConfig
from src.training.continuation import Continuation, begin_at
from src.training.distributed import load_whole
from src.training.finite import check_figures
from src.training.hparams import Choices, Row
from src.training.interruption import Interruption
from src.training.kept import KeptModels
from src.training.last_steps import LastSteps
from src.training.log import TrainingLog
from src.training.loggers import Loggers
from src.training.lora import has_adapters, merged
from src.training.objective import Objective
from src.training.origin import Origin
from src.training.plan import Plan, flat
from src.training.progress import RunProgress
from src.training.pruning import Pruning
from src.training.status import StatusFile
from src.training.status_updates import StatusUpdates
from src.training.summary import summary
from src.training.trainer import build_trainer
from src.training.verdict import verdict
from src.training.wandb_logger import open_wandb
from src.wording.command_line import command

log = logging.getLogger(__name__)


class StepTooLarge(Exception):
    """The first step of a new run ran out of memory, and its micro-batch can be cut in two."""

    def __init__(self, device: str, micro_batch_size: int):
        super().__init__(f"{device} ran out of memory with micro_batch_size={micro_batch_size}")
        self.micro_batch_size = micro_batch_size


class Run:
    """The parts of one run, wired together."""

    def __init__(
        self,
        config: TrainConfig,
        objective: Objective,
        data: ChatDataModule,
        model: GPT2,
        plan: Plan,
        run_folder: Path,
        origin: Origin | None = None,
        choices: Choices | None = None,
    ):
        self.choices = choices or Choices()
        self.config, self.objective, self.data = config, objective, data
        self.plan, self.folder = plan, run_folder
        if config.trainer.compile:
            model.compile()
        self.module = objective.module(model, plan.num_steps)
        self.training_log = TrainingLog()
        self.card = Card(config, data, plan, run_folder.resolve().name, objective.purpose)
        rank = plan.machine.place.rank
        trainer = config.trainer
        check_patience(trainer.patience, self.has("validation"))
        place = run_folder / self.module.folder
        self.best = BestModel(
            place, objective.best, self._save, objective.load, rank, trainer.patience
        )
        self.last_steps = LastSteps(config.reference.average_over if config.reference else 0)
        self.checkpoints = Checkpoints(
            run_folder,
            trainer.checkpoint_every_n_steps,
            plan.val_every_n_steps if self.has("validation") else None,
        )
        interruption = Interruption(self.checkpoints)
        if rank == 0:
            signals.say_at_end(f"go on with: {command('train', resume=run_folder)}")
        self.checkpoint = find_checkpoint(run_folder) if config.resume else None
        self.origin = origin if self.checkpoint is None and origin and origin.checkpoint else None
        # Order matters: a checkpoint holds what the callbacks before it have counted.
        watching = [
            *([Continuation(self.origin, config)] if self.origin else []),
            self.last_steps,
            self.training_log,
            RunProgress(objective.bar, plan),
            *objective.watchers(data, run_folder),
            self.best,
            StatusUpdates(run_folder, self.best),
            KeptModels(run_folder, trainer.keep_every_n_steps, self._save, rank),
        ]
        self.pruning = Pruning(self.choices.find_better)
        uses_wandb = config.logger == "wandb" and rank == 0
        others = [open_wandb(run_folder, plan.settings(config))] if uses_wandb else []
        totals = self.training_log.totals
        self.loggers = Loggers(run_folder, self.checkpoint, totals, rank, others)
        self.trainer = build_trainer(
            plan,
            self.loggers.all,
            callbacks=[*watching, self.checkpoints, self.pruning, interruption],
            validates=self.has("validation"),
            deterministic=trainer.deterministic,
        )

    def _save(self, model: GPT2, folder: Path) -> None:
        """Write the weights, and the card that says what they are."""
        with phases.phase("saving"):
            self.objective.save(model, folder, tokenizer=self.data.tokenizer)
            step = {"step": self.trainer.global_step}
            self.card.write(folder, self.module.latest | step)

    def has(self, split: str) -> bool:
        """Whether a split has any blocks."""
        return len(self.data.splits[split]) > 0

    def execute(self) -> int | None:
        """Fit, validate, test, write down; return the signal that stopped it, if one did.

        Raises:
            StepTooLarge: there was no room for the first step of a new run.
            UserError: for what a person can mend.
        """
        try:
            with signals.taken(), self.beside_others():
                self._execute()
        except signals.Stop as stop:
            log.info("go on with: %s", command("train", resume=self.folder))
            signals.say_at_end("")  # a second signal need not say it again
            return stop.signal.value
        except UserError:
            if self.plan.machine.place.rank:  # all ranks have it, and rank 0 says it
                sys.exit(2)
            raise
        except (MemoryError, RuntimeError) as error:
            if out_of_memory(error) is None:
                raise
            too_large = StepTooLarge(self.plan.machine.device, self.plan.batching.micro_batch_size)
            if not self._can_start_again():
                raise UserError(
                    f"{too_large}: resume with a lower one, or with "
                    f"trainer.activation_checkpointing=true, or start a new run with a lower "
                    f"data.block_size"
                ) from error
        else:
            return None
        finally:
            signals.defer(False)
            self.loggers.close()
        raise too_large  # out here, where it holds none of the frames that fill the device

    def beside_others(self) -> AbstractContextManager[Any]:
        """Leave a core to a program that keeps it busy; several processes share all among them."""
        machine = self.plan.machine
        if machine.device != "cpu" or machine.place.world_size > 1 or machine.threads == 1:
            return nullcontext()
        return Follower(machine.threads, load_now(), say=log.info)

    def _can_start_again(self) -> bool:
        """Whether nothing is lost yet; several processes may be at different places."""
        batching = self.plan.batching
        first_step = self.origin.step if self.origin else 0
        is_new = self.checkpoint is None and self.trainer.global_step == first_step
        return is_new and batching.num_devices == 1 and batching.micro_batch_size > 1

    def _execute(self) -> None:
        if self.checkpoint is None:
            if self.config.resume is not None:
                log.info("%s has no checkpoint yet: it begins at the first step", self.folder)
            if self.origin is not None:
                begin_at(self.trainer, self.origin.step)
            self._describe()
            if self.plan.machine.place.rank == 0:
                with phases.phase("replies"):
                    self.objective.before_training(merged(self.module.model))
            self._validate()  # what the base model knows
        self.fit()
        if self.best.seen_step != self.trainer.global_step:
            self._validate()
        self._finish(dict(self.module.latest))

    def _describe(self) -> None:
        """Write what is known before the first step."""
        row = Row(self.plan.settings(self.config), flat(asdict(self.config)), self.choices)
        figures = self.module.train_figures
        self.loggers.describe(row, self.data, figures, self.objective.table)

    def fit(self) -> None:
        """Train, from where an interrupted run stood."""
        begins = self.origin.checkpoint if self.origin else None
        path = self.checkpoint or begins
        with phases.phase("training"):
            self.trainer.fit(self.module, self.data, ckpt_path=path, weights_only=True)

    def _validate(self) -> None:
        if self.has("validation"):
            self.trainer.validate(self.module, self.data, verbose=False)
        else:
            self.best.write(self.module)
            self.objective.without_validation(self.trainer, self.module)

    def _finish(self, last: Mapping[str, float]) -> None:
        """Score the best weights once, write ``metrics.json``, and say how it went."""
        last = {**last, **self.last_steps.figures(self.trainer, self.module)}
        num_steps = self.trainer.global_step
        self.trainer.strategy.barrier()  # rank 0 has written them
        with phases.phase("model"):
            best = self.objective.load(self.best.folder)
        if has_adapters(self.module.model):
            self.module.model = best  # with the adapters in its weights
        else:
            load_whole(self.module.model, best.state_dict())
        if self.has("test") and self.pruning.reason is None:
            self.trainer.test(self.module, self.data, verbose=False)
        if self.plan.machine.place.rank:
            return
        figures = self._figures(last, best, num_steps)
        check_figures(figures)
        self.card.write(self.best.folder, figures)
        self.loggers.end()  # before a run counts as finished, for then it is never resumed
        atomic.write_json(self.folder / "metrics.json", figures)
        pruned = self.pruning.reason
        if pruned is not None:
            StatusFile(self.folder).write(reason=pruned)
        lines = self.objective.summary_lines(figures) if pruned is None else [pruned]
        outcome = [*lines, *self._verdict()]
        dropped = 0 if self.config.trainer.keep_optimizer else finished.num_bytes(self.folder)
        use = self.objective.use(self.best.folder)
        for line in summary(figures, outcome, self.folder, use, dropped):
            log.info(line)
        if dropped:
            finished.drop_checkpoints(self.folder)

    def _verdict(self) -> list[str]:
        if not self.has("validation"):
            return [f"not validated: {self.best.folder.name}/ holds the last weights"]
        step, ended_early = int(self.best.best["step"]), self.best.is_over
        said = verdict(self.best.history, step, self.objective.best, ended_early)
        return [line for text in said for line in textwrap.wrap(text, 100, break_on_hyphens=False)]

    def _figures(self, last: Mapping[str, float], best: GPT2, num_steps: int) -> dict[str, Any]:
        planned = {"planned_steps": self.plan.num_steps}
        return {
            **{k: v for k, v in last.items() if k.startswith(("val/", "last_train/"))},
            **{f"best_{k}": v for k, v in self.best.best.items()},
            **{k: v for k, v in self.module.latest.items() if k.startswith("test/")},
            "num_steps": num_steps,
            **(planned if num_steps < self.plan.num_steps else {}),
            **self._scored(),
            "train_seconds": self.training_log.train_seconds,
            "num_tokens": self.training_log.num_tokens,
            "real_tokens_per_second": self.training_log.tokens_per_second,
            "utilisation": self.data.splits["train"].utilisation,
            "num_parameters": best.num_parameters,
            **self._shares(),
            **(self.objective.final_figures(best) if self.pruning.reason is None else {}),
            **{f"seconds/{phase}": seconds for phase, seconds in phases.seconds().items()},
        }

    def _scored(self) -> dict[str, int]:
        """Return how much of the held-out splits the figures are of."""
        found = {}
        for prefix, split in (("val", "validation"), ("test", "test")):
            parts = list(self.data.by_source(split).values())
            if not parts or not any(key.startswith(f"{prefix}/") for key in self.module.latest):
                continue
            found[f"{prefix}/num_rows"] = sum(len(part.corpus_units) for part in parts)
            if self.data.unit == "blocks" and all(isinstance(p.targets, Labels) for p in parts):
                found[f"{prefix}/num_scored_tokens"] = sum(part.num_targets for part in parts)
        return found

    def _shares(self) -> dict[str, int]:
        """Return what each of several sources brings to an epoch."""
        found = self.data.shares()
        return {
            f"train_{name}/{share.label}": getattr(share, name)
            for share in found
            for name in ("rows", "tokens", "supervised_tokens")
            if len(found) > 1
        }
