"""The article's recipe: its GPT-2, its training step, its decoding, so that we can be held to them.

A model of its own, so that nothing we make faster reaches it: dense causal attention that knows no
documents, logits at every position, dropout 0.1, the exact GELU, softmax before the accuracy, fp16
with a gradient scaler on a GPU and fp32 on a CPU.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.benchmark.inputs import open_blocks
from src.benchmark.stopwatch import Stopwatch
from src.benchmark.workers import Job, Setting
from src.data.blocks import Batch
from src.model.config import GPT2Config
from src.model.gpt2 import GPT2
from src.model.loss import IGNORE_INDEX
from src.model.pretrained import load_pretrained

DROPOUT = 0.1
LEARNING_RATE, BETAS, WEIGHT_DECAY = 6e-5, (0.9, 0.95), 0.01
GPU_MICRO_BATCHES = (32, 16, 8, 4)  # blocks: on its A100 (40 GB) 32, on its 2080Ti (11 GB) 4
CPU_MICRO_BATCH = 1  # blocks: one at a time is the fastest for it on a CPU


class ArticleBlock(nn.Module):
    """One layer."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        width = config.n_embd
        self.num_heads = config.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.attn_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D)."""
        batch, length, width = x.shape
        qkv = self.c_attn(self.ln_1(x)).view(batch, length, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        dropout = DROPOUT if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        merged = attended.transpose(1, 2).reshape(batch, length, width)
        x = x + self.drop(self.attn_proj(merged))
        return x + self.drop(self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)))))


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


def load_article_gpt(folder: str) -> ArticleGPT:
    """Return the model with the weights that all variants share."""
    shared = load_pretrained(folder)
    model = ArticleGPT(shared.config)
    state = shared.state_dict()
    model.load_state_dict({own: state[name] for name, own in shared_names(shared).items()})
    return model


def shared_names(model: GPT2) -> dict[str, str]:
    """Return, for each of our names, what the same tensor is called here."""
    own = {"attn.c_attn": "c_attn", "attn.c_proj": "attn_proj"}
    own |= {"mlp.c_fc": "c_fc", "mlp.c_proj": "mlp_proj"}
    names = {}
    for name in model.state_dict():
        names[name] = name
        for theirs, ours in own.items():
            names[name] = names[name].replace(theirs, ours)
    return names


def dense_labels(batch: Batch) -> Tensor:
    """Return (B, T): at each position the token that is due next, or the ignore index."""
    labels = torch.full_like(batch["input_ids"], IGNORE_INDEX)
    labels.view(-1)[batch["supervised_index"]] = batch["labels"]
    return labels


def train_settings(device: torch.device) -> tuple[Setting, ...]:
    """Return the micro-batches among which the fastest that the device has memory for is taken."""
    sizes = (CPU_MICRO_BATCH,) if device.type == "cpu" else GPU_MICRO_BATCHES
    return tuple({"micro_batch_size": size} for size in sizes)


def train_as_written(job: Job, stopwatch: Stopwatch) -> None:
    """One row in each block; nine tenths of it are padding on rows of a hundred tokens."""
    _train(job, stopwatch, packing=False)


def train_packed(job: Job, stopwatch: Stopwatch) -> None:
    """The same step with the packing that the article meant to have."""
    _train(job, stopwatch, packing=True)


def _train(job: Job, stopwatch: Stopwatch, packing: bool) -> None:
    batch_size = job.config.batch_size
    micro = min(batch_size, job.setting["micro_batch_size"])
    data = open_blocks(job.config, packing=packing, batch_size=batch_size, micro_batch_size=micro)
    model = load_article_gpt(job.config.model.pretrained).to(job.device)
    values = (LEARNING_RATE, BETAS, WEIGHT_DECAY)
    if job.setting.get("optimizer") == "config":  # to compare what is learnt
        given = job.config.optimizer
        values = (given.learning_rate, tuple(given.betas), given.weight_decay)
    rate, betas, decay = values
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=betas, weight_decay=decay)
    half = job.device.type == "cuda"
    scaler = torch.amp.GradScaler(job.device.type, enabled=half)
    batches = data.train_dataloader()
    accumulate = batches.batches.accumulate
    num_tokens = 0
    stopwatch.begin(model)
    for index, batch in enumerate(batches):
        input_ids = batch["input_ids"].to(job.device)
        labels = dense_labels(batch).to(job.device)
        with torch.autocast(job.device.type, dtype=torch.float16, enabled=half):
            loss, _ = loss_and_accuracy(model(input_ids), labels)
        scaler.scale(loss / accumulate).backward()
        num_tokens += batch["num_tokens"]
        if (index + 1) % accumulate:
            continue
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        stopwatch.lap(num_tokens)
        num_tokens = 0


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
