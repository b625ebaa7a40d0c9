"""TrainingModule: what every objective shares, for Lightning."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from src.data.batch import Batch
from src.errors import UserError
from src.model.gpt2 import GPT2
from src.training.checkpoint_file import check_fit
from src.training.config import OptimizerConfig
from src.training.distributed import is_sharded, reshard, shard, whole_model
from src.training.finite import SkippedSteps, explain_figures, hear_of_skipped
from src.training.gradient_norms import GradientNorms, clip_gradients
from src.training.lora import frozen_checksum, frozen_weights, merged
from src.training.metrics import BatchSums, Sums
from src.training.optimizer import build_optimizer, build_schedule


class TrainingModule(L.LightningModule, ABC):
    """A model with AdamW, a warmup-cosine schedule, and figures that are sums over counts.

    Each micro-batch's summed loss is divided by the denominator of its whole global batch, so the
    gradient is the same however the batch is cut into micro-batches or spread over devices.

    Args:
        model: what learns.
        config: the values of ``conf/train.yaml``'s ``optimizer``.
        num_steps: optimizer steps of the run.
        log_every_n_steps: how often ``take_training_figures`` is called, in optimizer steps.
    """

    sum_types: ClassVar[Mapping[str, torch.dtype]]  # of what ``sums`` returns, by name
    train_figures: ClassVar[Sequence[str]]  # those of ``figures`` that training logs
    folder: ClassVar[str] = "model"  # of the result, in the run folder
    learns_from_rows: ClassVar[bool] = True  # else from what it makes of them
    grad_norm: Tensor
    num_skipped: Tensor
    num_skipped_in_a_row: Tensor

    def __init__(
        self, model: GPT2, config: OptimizerConfig, *, num_steps: int, log_every_n_steps: int
    ):
        super().__init__()
        self.model = model
        self.config = config
        self.num_steps = num_steps
        self.log_every_n_steps = log_every_n_steps
        self.train_metrics = Sums(self.sum_types)
        self.val_metrics = Sums(self.sum_types)
        self.test_metrics = Sums(self.sum_types)
        self.by_source: dict[int, Sums] = {}  # of the validation or test now, by loader
        self.validated: dict[str, float] = {}  # the sums of the last validation, over all ranks
        self.latest: dict[str, float] = {}  # the figures logged last, for whoever shows them
        self.frozen_checksum = frozen_checksum(model)
        self.lr = 0.0  # of the step that ended last
        self.skipped = SkippedSteps()
        self.grad_norms = GradientNorms()
        self.plain: list[GPT2] = []  # the plain model, within a validation; no module of this one
        self.sums_before: dict[str, Tensor] = {}  # the training sums before this step
        # In the checkpoint, like the metrics: a resumed run logs what an uninterrupted one does.
        # The same on all ranks.
        self.register_buffer("grad_norm", torch.zeros(()))
        self.register_buffer("num_skipped", torch.zeros(()))
        self.register_buffer("num_skipped_in_a_row", torch.zeros(()))

    @abstractmethod
    def sums(self, batch: Batch) -> BatchSums:
        """Return the sums over one micro-batch, ``loss`` among them; each is a 0-d tensor."""

    @abstractmethod
    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the figures of ``sums`` over any number of batches, each a sum over a count."""

    def configure_model(self) -> None:
        """Shard the model, if the strategy is FSDP2."""
        if self.device_mesh is not None:
            shard(self.model, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return optimizer and schedule, stepped together."""
        optimizer = build_optimizer(self.model, self.config, fused=True)
        schedule = build_schedule(optimizer, self.config, self.num_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return this micro-batch's share of the global batch's mean loss (0-d).

        Lightning divides by the number of micro-batches and DDP by the number of ranks, though
        the denominator already covers both; so both are multiplied in. A loss that is not finite
        makes all gradients so, on all ranks: the step is skipped.
        """
        num_micro_batches = self.trainer.accumulate_grad_batches
        is_last = (batch_idx + 1) % num_micro_batches == 0
        # Of the last micro-batch the ranks exchange their gradients, so none may be left out.
        if self._is_empty(batch) and not (is_last and self.trainer.world_size > 1):
            return torch.zeros((), device=self.device, requires_grad=True)
        if batch_idx % num_micro_batches == 0:
            self.sums_before = self.train_metrics.values()
        sums = self.sums(batch)
        self.train_metrics.update(sums)
        loss = sums.loss.detach()
        scale = num_micro_batches * self.trainer.world_size / batch["denominator"]
        return sums.loss * ((loss - loss) + scale)  # 0 + scale, or NaN

    @staticmethod
    def _is_empty(batch: Batch) -> bool:
        """Whether all ranks hold nothing but padding now, which fills up a short global batch."""
        return batch.get("num_tokens") == 0

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step, then let go of the gradients, which Lightning keeps through the next forward pass.

        For GPT-2 124M that is half a GiB, and on two CPU cores it took 6% of the step.
        """
        self.lr = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        # As optimizer.zero_grad() does, without the operations of its record for the profiler.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        # Lightning counts the step after this.
        self.skipped.send(self.trainer.global_step + 1, self.num_skipped_in_a_row)
        hear_of_skipped(self)

    def optimizer_zero_grad(self, *_: Any) -> None:
        """Do nothing before the backward pass: ``optimizer_step`` has let go of the gradients."""

    @property
    def is_scaled(self) -> bool:
        """Whether the loss is scaled, for fp16."""
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    @property
    def is_sharded(self) -> bool:
        """Whether each rank has a share of the weights (FSDP2)."""
        return is_sharded(self.model)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip to ``max_grad_norm``, and have a step with a non-finite gradient skipped.

        All on the device: nothing waits for the norm. Under fp16 the gradient is unscaled here,
        which Lightning leaves to fused AdamW; its scaler would wait for what it finds otherwise.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            scaler.unscale_(optimizer)
        self.grad_norm = self.clip()
        self.grad_norms.add(self.grad_norm)
        bad = (~self.grad_norm.isfinite()).float()
        self.num_skipped += bad
        self.num_skipped_in_a_row = (self.num_skipped_in_a_row + 1) * bad
        if optimizer.defaults.get("fused"):
            # Fused AdamW leaves weights and state alone where this is 1; its type does not know it.
            optimizer.found_inf = bad  # type: ignore[attr-defined]

    def clip(self) -> Tensor:
        """Clip the gradients, unscaled by now; return their norm (0-d) before."""
        return clip_gradients(self.model, self.config.max_grad_norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out weights that do not learn; keep their checksum."""
        checkpoint["frozen_checksum"] = self.frozen_checksum
        checkpoint["grad_norms"] = self.grad_norms.values()
        state = checkpoint["state_dict"]
        if "grad_norm" in state and self.skipped.in_a_row:  # what is not finite is not saved
            state["grad_norm"] = torch.zeros(())
        for name in frozen_weights(self.model):
            del checkpoint["state_dict"][f"model.{name}"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the weights that do not learn from the model, where they are already.

        Raises:
            UserError: they differ from those of the run that saved the checkpoint, or it is of
                another model.
        """
        if checkpoint["frozen_checksum"] != self.frozen_checksum:
            raise UserError(
                "resume: the weights that LoRA leaves alone are not what they were: put "
                "model.pretrained back, or start a new run"
            )
        self.grad_norms.restore(checkpoint.get("grad_norms", ()))  # an older version kept none
        # Under FSDP2, where all weights learn, Lightning has taken the state dict out already.
        if frozen := frozen_weights(self.model):
            checkpoint["state_dict"] |= {f"model.{name}": frozen[name] for name in frozen}
        if "state_dict" in checkpoint:
            check_fit(checkpoint["state_dict"], self.state_dict())

    def take_training_figures(self) -> dict[str, float]:
        """Return what happened since the last call: means over all steps in between, all ranks.

        If all of these were skipped, there are no means.

        Raises:
            UserError: from ``hear_of_skipped``.
        """
        hear_of_skipped(self, wait=True)
        sums = self.train_metrics.compute()
        self.train_metrics.reset()
        figures = self.figures(sums) if any(sums.values()) else {}
        skipped = int(self.num_skipped)
        self.num_skipped.zero_()
        return {
            **{f"train/{name}": figures[name] for name in self.train_figures if name in figures},
            "train/skipped_steps": float(skipped),
            "lr": self.lr,
            **self.grad_norms.figures(self.config.max_grad_norm),
        }

    def plain_model(self) -> GPT2:
        """Return the model as it talks and is saved: whole, with adapters in its weights.

        It is made once a validation. Every rank has to call it; only rank 0 can use what it gets.
        """
        if self.plain:
            return self.plain[0]
        plain = merged(whole_model(self.model))
        if self._trainer is not None and self._trainer.validating:
            self.plain.append(plain)
        return plain

    def on_validation_end(self) -> None:
        """Let go of what the callbacks have used."""
        self.plain.clear()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add up one micro-batch of the validation split; each loader is a source."""
        self._add_up(self.val_metrics, batch, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the figures of the validation split."""
        self.validated = self.val_metrics.compute()
        self._log_and_reset("val", self.val_metrics, "validation")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add up one micro-batch of the test split; each loader is a source."""
        self._add_up(self.test_metrics, batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log the figures of the test split."""
        self._log_and_reset("test", self.test_metrics, "test")

    def _add_up(self, metrics: Sums, batch: Batch, source: int) -> None:
        sums = self.sums(batch)
        metrics.update(sums)
        data = getattr(self._trainer, "datamodule", None)
        if data is None or len(data.source.sources) == 1:
            return  # the sums of the one source are those of all
        if source not in self.by_source:
            with torch.device(self.device):  # made there, not uploaded
                self.by_source[source] = Sums(self.sum_types)
        self.by_source[source].update(sums)

    def _log_and_reset(self, prefix: str, metrics: Sums, split: str) -> None:
        reshard(self.model)
        figures = self.figures(metrics.compute())
        logged = {f"{prefix}/{name}": value for name, value in figures.items()}
        if len(self.by_source) > 1:
            trainer: Any = self.trainer
            labels = list(trainer.datamodule.by_source(split))
            for source, sums in sorted(self.by_source.items()):
                of_source = self.figures(sums.compute())
                logged |= {f"{prefix}/{n}/{labels[source]}": v for n, v in of_source.items()}
        self.by_source.clear()
        metrics.reset()
        explain_figures(self, split, logged)
        self.log_figures(logged)

    def log_figures(self, figures: dict[str, float]) -> None:
        """Write figures to the loggers at the current optimizer step and keep them as latest."""
        self.latest |= figures
        for logger in self.loggers:
            logger.log_metrics(figures, step=self.trainer.global_step)
