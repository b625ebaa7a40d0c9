"""The article's recipe: its GPT-2, its training step, its decoding, so that we can be held to them.

A model of its own, so that nothing we make faster reaches it: dense causal attention that knows no
documents, logits at every position, dropout 0.1, the exact GELU, softmax before the accuracy, fp16
with a gradient scaler on a GPU and fp32 on a CPU.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.benchmark.inputs import open_data_module
from src.benchmark.loop import dense_labels, loaded_steps, on_device, train_in_loop
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.turns import Job, Setting
from src.data.blocks import Batch
from src.model.config import GPT2Config
from src.model.loss import IGNORE_INDEX
from src.model.pretrained import load_pretrained
from src.training.config import OptimizerConfig

DROPOUT = 0.1
ADAMW = {"lr": 6e-5, "betas": (0.9, 0.95), "weight_decay": 0.01}
GPU_MICRO_BATCHES = (32, 16, 8, 4)  # blocks: on its A100 (40 GB) 32, on its 2080Ti (11 GB) 4
CPU_MICRO_BATCH = 1  # blocks: one at a time is the fastest for it on a CPU


class ArticleBlock(nn.Module):
    """One layer; its weights have the names of ours."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        width = config.n_embd
        self.num_heads = config.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict(
            {"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)}
        )
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        )
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D)."""
        batch, length, width = x.shape
        qkv = self.attn["c_attn"](self.ln_1(x)).view(batch, length, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        dropout = DROPOUT if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        merged = attended.transpose(1, 2).reshape(batch, length, width)
        x = x + self.drop(self.attn["c_proj"](merged))
        return x + self.drop(self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)))))


class ArticleGPT(nn.Module):
    """Token ids to logits."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(DROPOUT)
        self.h = nn.ModuleList(ArticleBlock(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return (B, T, V) for (B, T)."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.drop(self.wte(input_ids) + self.wpe(positions))
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)


def load(folder: str) -> ArticleGPT:
    """Return the model with the weights that all variants share."""
    shared = load_pretrained(folder)
    model = ArticleGPT(shared.config)
    model.load_state_dict(shared.state_dict())
    return model


def settings(device: torch.device, packing: bool) -> tuple[Setting, ...]:
    """Return the micro-batches among which the fastest that the device has memory for is taken."""
    sizes = (CPU_MICRO_BATCH,) if device.type == "cpu" else GPU_MICRO_BATCHES
    return tuple({"packing": packing, "micro_batch_size": size} for size in sizes)


def train(
    job: Job,
    stopwatch: Stopwatch,
    *,
    packing: bool,
    micro_batch_size: int,
    adamw: Callable[[OptimizerConfig], dict[str, Any]] = lambda config: ADAMW,
) -> None:
    """Take the article's step: no clipping, a mean over micro-batches.

    As written, a block holds one row, so that nine tenths of it are padding on rows of a hundred
    tokens; ``packing`` is what the article meant to have.
    """
    data = open_data_module(job.config, micro_batch_size, packing)
    model = load(job.config.model.pretrained).to(job.device)
    optimizer = torch.optim.AdamW(model.parameters(), **adamw(job.config.optimizer))
    loader = data.train_dataloader()

    def loss_of(batch: Batch) -> Tensor:
        batch = on_device(batch, job.device)
        loss, _ = loss_and_accuracy(model(batch["input_ids"]), dense_labels(batch))
        return loss / loader.batches.accumulate

    half = None if job.device.type == "cpu" else torch.float16
    train_in_loop(job, stopwatch, model, optimizer, loaded_steps(loader), loss_of, half)


def loss_and_accuracy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean loss of the labels and the share that is right, by way of a softmax."""
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX)
    with torch.no_grad():
        right = logits.softmax(-1).argmax(-1) == labels
        scored = labels != IGNORE_INDEX
        return loss, (right & scored).sum() / scored.sum()


@torch.inference_mode()
def decode(model: ArticleGPT, ids: Tensor, num_tokens: int) -> Tensor:
    """Append ``num_tokens`` to (1, T), reading the whole text again for each of them."""
    for _ in range(num_tokens):
        logits = model(ids[:, -model.config.n_positions :])[:, -1]
        token = torch.multinomial(logits.softmax(-1), 1)
        ids = torch.cat([ids, token], dim=1)
    return ids
