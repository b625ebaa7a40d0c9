"""AdamW on two groups, and linear warmup with a cosine to a tenth."""

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

from src.errors import UserError
from src.training.config import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig, fused: bool) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov & Hutter, arXiv:1711.05101); matrices decay, vectors do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = weight_decays(config)
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": matrices},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": vectors},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.betas[0], config.betas[1]), fused=fused
    )


def weight_decays(config: OptimizerConfig) -> tuple[float, float]:
    """Return the decay of the two groups: matrices, vectors."""
    return config.weight_decay, 0.0


def warmup_steps(config: OptimizerConfig, num_steps: int) -> int:
    """Return the steps of warmup: as configured, but at most a share of the run."""
    return min(config.warmup_steps, int(config.max_warmup_share * num_steps))


def check_schedule(config: OptimizerConfig, num_steps: int) -> None:
    """Raise UserError if the cosine would end, and rise again, before a run of ``num_steps``."""
    if config.decay_steps is not None and config.decay_steps < num_steps:
        raise UserError(
            f"optimizer.decay_steps={config.decay_steps} is less than the run's {num_steps} steps: "
            f"raise it, or set it to null"
        )


def build_schedule(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, num_steps: int
) -> LRScheduler:
    """Return the learning-rate schedule of a run of ``num_steps`` optimizer steps.

    Step n of W steps of warmup has n / W of the peak; then comes a cosine, which is at
    ``min_learning_rate_ratio`` of the peak in step ``decay_steps`` (None: the run's last). With
    ``warmup_from_zero`` each step has what is otherwise due one step earlier, and so the first one
    teaches nothing.
    """
    for group in optimizer.param_groups:  # what a schedule that does not begin at its start needs
        group["initial_lr"] = group["lr"]
    return get_cosine_with_min_lr_schedule_with_warmup(
        optimizer,
        num_warmup_steps=warmup_steps(config, num_steps),
        num_training_steps=config.decay_steps or num_steps,
        min_lr_rate=config.min_learning_rate_ratio,
        last_epoch=-1 if config.warmup_from_zero else 0,
    )


def go_on_with_schedule(
    optimizer: torch.optim.Optimizer, schedule: LambdaLR, config: OptimizerConfig, step: int
) -> None:
    """Set what a new run of ``config`` has in the step after ``step``, in place.

    The optimizer has the moments of another run, whose settings and schedule came with them.
    """
    count = step + (0 if config.warmup_from_zero else 1)  # see ``build_schedule``
    schedule.last_epoch = count
    schedule.base_lrs = [config.learning_rate for _ in optimizer.param_groups]
    for group, decay, factor in zip(
        optimizer.param_groups, weight_decays(config), schedule.lr_lambdas, strict=True
    ):
        group["initial_lr"] = config.learning_rate
        group["lr"] = config.learning_rate * factor(count)
        group["betas"] = (config.betas[0], config.betas[1])
        group["weight_decay"] = decay
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]
