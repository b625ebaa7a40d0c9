"""The article's recipe: its training step and its decoding, so that we can be held to them.

On Hugging Face's GPT-2, so that nothing we make faster reaches it: dense causal attention that
knows no documents, logits at every position, dropout 0.1, the exact GELU, softmax before the
accuracy, fp16 with a gradient scaler on a GPU and fp32 on a CPU.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from transformers import GPT2LMHeadModel

from src.benchmark import huggingface
from src.benchmark.inputs import dense_labels, open_data_module
from src.benchmark.loop import adamw, loaded_steps, train_in_loop
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job, Setting
from src.data.batch import Batch
from src.model.loss import IGNORE_INDEX

GPU_MICRO_BATCHES = (32, 16, 8, 4)  # blocks: on its A100 (40 GB) 32, on its 2080Ti (11 GB) 4
CPU_MICRO_BATCHES = (1,)  # the fastest for it on a CPU


def load(folder: str, device: torch.device | str = "cpu") -> GPT2LMHeadModel:
    """Return the model with the weights that all variants share."""
    return huggingface.load(folder, 0.1, device, activation_function="gelu")


def settings(device: torch.device, packing: bool) -> tuple[Setting, ...]:
    """Return the micro-batches of which the first that the device has memory for is taken."""
    sizes = CPU_MICRO_BATCHES if device.type == "cpu" else GPU_MICRO_BATCHES
    return tuple({"packing": packing, "micro_batch_size": size} for size in sizes)


def train_article(job: Job, stopwatch: Stopwatch, *, packing: bool, micro_batch_size: int) -> None:
    """Take the article's step: no clipping, a mean over micro-batches.

    As written, a block holds one row, so that nine tenths of it are padding on rows of a hundred
    tokens; ``packing`` is what the article meant to have.
    """
    loader = open_data_module(job.config, micro_batch_size, packing).train_dataloader()
    model = load(job.config.model_folder, job.device).train()

    def loss_of(batch: Batch) -> Tensor:
        batch = move_data_to_device(batch, job.device)
        logits = model(batch["input_ids"], use_cache=False).logits
        loss, _ = loss_and_accuracy(logits, dense_labels(batch))
        return loss / loader.batches.accumulate

    job = replace(job, precision="32-true" if job.device.type == "cpu" else "16-mixed")
    optimizer = adamw(model, job.config.optimizer)
    train_in_loop(job, stopwatch, model, optimizer, loaded_steps(loader), loss_of)


def loss_and_accuracy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean loss of the labels and the share that is right, by way of a softmax."""
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX)
    with torch.no_grad():
        right = logits.softmax(-1).argmax(-1) == labels
        scored = labels != IGNORE_INDEX
        return loss, (right & scored).sum() / scored.sum()


@torch.inference_mode()
def decode(model: GPT2LMHeadModel, ids: Tensor, num_tokens: int) -> Tensor:
    """Append ``num_tokens`` to (1, T), reading the whole text again for each of them."""
    for _ in range(num_tokens):
        logits = model(ids[:, -model.config.n_positions :], use_cache=False).logits[:, -1]
        ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], dim=1)
    return ids
