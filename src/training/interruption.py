"""What watches a run: its log, the progress bar, sample replies, the best weights, signals."""

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from src.data.tokenizer import Tokenizer
from src.model.generation_config import GenerationConfig
from src.talk.assistant import Assistant
from src.talk.model_folder import save_model_folder
from src.training.checkpoints import Checkpoints, at_step_boundary
from src.training.distributed import Agreement, whole_model
from src.training.lora import merged
from src.training.sft import SFTModule

log = logging.getLogger(__name__)


class TrainingLog(L.Callback):
    """Logs the training figures, and how fast it goes, at every so many optimizer steps.

    Speed is in real tokens a second: padding is not counted, nor is time spent on validation.
    """

    TOTALS = ("train_seconds", "num_tokens", "logged_seconds", "logged_tokens")

    def __init__(self) -> None:
        self.train_seconds = 0.0  # whole run, earlier interrupted parts included
        self.num_tokens = 0
        self.logged_seconds = 0.0  # the same two at the last log
        self.logged_tokens = 0
        self.started: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Average over the whole run."""
        return self.num_tokens / self.train_seconds if self.train_seconds else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the totals, so that a resumed run goes on counting."""
        return {name: getattr(self, name) for name in self.TOTALS}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the totals of the interrupted run."""
        for name in self.TOTALS:
            setattr(self, name, state_dict[name])

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock; it stands still outside training batches."""
        if self.started is None:
            self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: SFTModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count this micro-batch; log at a due step, and at the last."""
        self.num_tokens += batch["num_tokens"]
        step = trainer.global_step
        if not at_step_boundary(trainer):
            return
        if step % module.log_every_n_steps and step != module.num_steps:
            return
        figures = module.take_training_figures()
        self._stop_clock()
        seconds = self.train_seconds - self.logged_seconds
        figures["perf/tokens_per_second"] = (self.num_tokens - self.logged_tokens) / seconds
        figures["epoch"] = step / trainer.datamodule.steps_per_epoch
        self.logged_seconds, self.logged_tokens = self.train_seconds, self.num_tokens
        module.log_figures(figures)

    def on_validation_start(self, *_: Any) -> None:
        """Stop the clock."""
        self._stop_clock()

    def on_train_end(self, *_: Any) -> None:
        """Stop the clock."""
        self._stop_clock()

    def _stop_clock(self) -> None:
        if self.started is not None:
            self.train_seconds += time.perf_counter() - self.started
            self.started = None


class Progress(L.Callback):
    """A bar over the optimizer steps; a line now and then where there is no terminal."""

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.last_line = 0.0

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, module: SFTModule) -> None:
        """Show the bar, from the resumed step on."""
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=module.num_steps,
                initial=trainer.global_step,
                desc="training",
                unit="step",
                dynamic_ncols=True,
            )

    @rank_zero_only
    def on_train_batch_end(self, trainer: L.Trainer, module: SFTModule, *_: Any) -> None:
        """Move on by a step."""
        if not at_step_boundary(trainer):
            return
        step, now = trainer.global_step, time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(self._figures(module), refresh=False)
            self.bar.update(step - self.bar.n)
        elif now - self.last_line > self.SECONDS_BETWEEN_LINES or step == module.num_steps:
            self.last_line = now
            log.info("step %d/%d  %s", step, module.num_steps, self._figures(module))

    @staticmethod
    def _figures(module: SFTModule) -> str:
        names = {
            "loss": ("train/loss", "{:.4f}"),
            "accuracy": ("train/accuracy", "{:.2%}"),
            "tokens/s": ("perf/tokens_per_second", "{:,.0f}"),
            "val_loss": ("val/loss", "{:.4f}"),
        }
        return "  ".join(
            f"{label} {form.format(module.latest[name])}"
            for label, (name, form) in names.items()
            if name in module.latest
        )

    def on_train_end(self, *_: Any) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class SampleReplies(L.Callback):
    """Answers the same questions at each validation; TensorBoard shows them as text."""

    def __init__(self, prompts: Sequence[str], tokenizer: Tokenizer, generation: GenerationConfig):
        self.prompts = list(prompts)
        self.tokenizer = tokenizer
        self.generation = generation

    def on_validation_end(self, trainer: L.Trainer, module: SFTModule) -> None:
        """Ask and write down."""
        self.ask(trainer, module)

    def ask(self, trainer: L.Trainer, module: SFTModule) -> None:
        """Write the replies to the logger at the current step."""
        if not self.prompts or not isinstance(trainer.logger, TensorBoardLogger):
            return
        model = whole_model(module.model)
        if not trainer.is_global_zero:
            return
        assistant = Assistant(model, self.tokenizer)
        replies = assistant.replies(self.prompts, self.generation)
        text = "\n\n".join(
            f"**{prompt}**\n\n{_quoted(reply)}"
            for prompt, reply in zip(self.prompts, replies, strict=True)
        )
        trainer.logger.experiment.add_text("sample_replies", text, trainer.global_step)


def _quoted(reply: str) -> str:
    return "\n".join(f"> {line}" for line in reply.splitlines() or ["(nothing)"])


class BestModel(L.Callback):
    """Keeps the best weights so far as a model folder, so that even an interrupted run can talk."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, generation: GenerationConfig):
        self.folder = folder
        self.tokenizer = tokenizer
        self.generation = generation
        self.best: dict[str, float] = {}  # val/loss, val/accuracy, val/perplexity and step
        self.seen_step = -1  # of the last validation in this process

    def state_dict(self) -> dict[str, Any]:
        """Return the figures of the best weights."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best weights of the interrupted run."""
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: L.Trainer, module: SFTModule) -> None:
        """Write the weights if their validation loss is the lowest so far."""
        self.seen_step = trainer.global_step
        loss = module.latest["val/loss"]
        if not self.best or loss < self.best["val/loss"] or math.isnan(self.best["val/loss"]):
            figures = {k: v for k, v in module.latest.items() if k.startswith("val/")}
            self.best = {**figures, "step": trainer.global_step}
            self.write(module)

    def write(self, module: SFTModule) -> None:
        """Write the weights as they are now."""
        model = whole_model(module.model)
        if rank_zero_only.rank == 0:
            save_model_folder(self.folder, merged(model), self.tokenizer, self.generation)


class Interrupted(Exception):
    """The run was asked to stop."""

    def __init__(self, received: signal.Signals):
        super().__init__(received.name)
        self.signal = received


class Interruption(L.Callback):
    """SIGTERM and Ctrl-C while a run goes on, by raising ``Interrupted``.

    In training the first signal waits for the end of the step and has it saved; a second one, or
    one at any other time, stops at once. (Told to stop, Lightning would validate first; left
    alone, it would exit with code 0 on SIGTERM.)

    Several ranks stop at the same step, whichever of them was told to: at each step's end they
    exchange what they have received, and read the answer a step later, when it has long arrived.
    """

    # torchrun passes on the Ctrl-C that the terminal has sent to every process already.
    ECHO_SECONDS = 1.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.0

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints
        self.agreement: Agreement | None = None  # where there are several ranks
        self.training = False
        self.received: signal.Signals | None = None
        self.since = 0.0
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if received == self.received and time.monotonic() - self.since < self.ECHO_SECONDS:
            return
        if not self.training or self.received is not None:
            log.warning("%s: stopped", received.name)
            raise Interrupted(received)
        self.received, self.since = received, time.monotonic()
        log.warning("%s: saving after this step, then stopping", received.name)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Take the two signals from Lightning, which has put itself before us."""
        self.training = True
        for number in self.before:
            signal.signal(number, self._handle)
        if trainer.world_size > 1:
            self.agreement = Agreement()
            # Lightning would wait for the device at each micro-batch to do the same.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Save and stop at the next step boundary."""
        if not at_step_boundary(trainer):
            return
        received = self.received
        if self.agreement is not None:
            received = self.agreement.exchange(received)
        if received is not None:
            self.checkpoints.save(trainer)
            log.warning("stopped at step %d", trainer.global_step)
            raise Interrupted(received)

    def on_train_end(self, *_: Any) -> None:
        """Stop if a signal came after the last step."""
        self.training = False
        received = self.received
        if self.agreement is not None:
            self.agreement.exchange(received)
            received = self.agreement.exchange(None)
            self.agreement = None
        if received is not None:
            raise Interrupted(received)
