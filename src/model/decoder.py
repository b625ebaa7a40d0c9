"""Sequences decoded side by side over one static KV cache; they join and leave between steps.

A prompt is read in one pass (prefill), then every step costs one position a sequence. The rows of
the cache that run are always the first ones: whoever leaves has its place taken by the last.

Shape letters: R rows of the cache, P positions, D width, H heads, V vocabulary; N tokens read.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from src.errors import UserError
from src.model.decoding_weights import DecodingWeights
from src.model.generation_config import GenerationConfig
from src.model.gpt2 import GPT2
from src.model.sampling import next_token

Attend = Callable[[Tensor, int], Tensor]  # qkv (N, 3D), layer -> (N, D)


class Running:
    """One sequence: its slot, its tokens (prompt and reply), its settings and its chance."""

    def __init__(self, slot: int, prompt: Sequence[int], config: GenerationConfig, device):
        self.slot = slot
        self.tokens = list(prompt)
        self.num_prompt_tokens = len(prompt)
        self.config = config
        self.generator = torch.Generator(device).manual_seed(config.seed)


class Decoder:
    """Up to ``num_slots`` sequences side by side, each as if alone.

    Args:
        model: its weights as they are now; later changes may or may not be seen.
        num_slots: how many sequences there is room for.
        weights: fp32, bf16 or int8.
        num_positions: the most that a sequence may have, prompt and reply; None: the model's.
    """

    def __init__(self, model: GPT2, num_slots: int, weights: str, num_positions: int | None = None):
        self.weights = DecodingWeights(model, weights)
        config = model.config
        self.num_heads = config.n_head
        self.num_positions = min(num_positions or config.n_positions, config.n_positions)
        self.device = model.wte.weight.device
        shape = (config.n_layer, num_slots, self.num_positions, config.n_embd)
        with torch.inference_mode():
            self.keys = torch.zeros(shape, device=self.device)
            self.values = torch.zeros(shape, device=self.device)
        self.rows: list[Running] = []  # by row of the cache
        self.num_read = 0  # rows whose last token the model has yet to read; the rest just joined
        self.free = list(range(num_slots))[::-1]

    @property
    def num_free_slots(self) -> int:
        """How many sequences may still join."""
        return len(self.free)

    @torch.inference_mode()
    def join(
        self, prompts: Sequence[Sequence[int]], configs: Sequence[GenerationConfig]
    ) -> list[int]:
        """Read the prompts and return the slot of each.

        Raises:
            UserError: a prompt is empty or leaves no position for an answer.
        """
        assert len(prompts) <= len(self.free), "more prompts than free slots"
        for prompt in prompts:
            check_prompt(prompt, self.weights.config.n_positions)
            assert len(prompt) < self.num_positions
        slots = []
        for prompt, config in zip(prompts, configs, strict=True):
            running = Running(self.free.pop(), prompt, config, self.device)
            row = len(self.rows)
            self.rows.append(running)
            ids = torch.tensor(prompt, device=self.device)
            positions = torch.arange(len(prompt), device=self.device)
            hidden = self._forward(ids, positions, self._prompt_attention(row, len(prompt)))
            self._choose(self.weights.head(hidden[-1:]), [running])
            slots.append(running.slot)
        return slots

    @torch.inference_mode()
    def step(self) -> dict[int, int]:
        """Return the next token of every running sequence, by slot.

        No sequence may be kept beyond its last position: let it leave.
        """
        if self.num_read:
            running = self.rows[: self.num_read]
            ids = torch.tensor([r.tokens[-1] for r in running], device=self.device)
            at = [len(r.tokens) - 1 for r in running]
            assert max(at) < self.num_positions, "a sequence has no more positions: let it leave"
            positions = torch.tensor(at, device=self.device)
            hidden = self._forward(ids, positions, self._step_attention(positions, max(at) + 1))
            self._choose(self.weights.head(hidden), running)
        self.num_read = len(self.rows)
        return {running.slot: running.tokens[-1] for running in self.rows}

    @torch.inference_mode()
    def leave(self, slot: int) -> None:
        """Free a slot."""
        row = next(i for i, running in enumerate(self.rows) if running.slot == slot)
        if row < self.num_read:
            self.num_read -= 1
            self._move(self.num_read, row)
            row = self.num_read
        last = len(self.rows) - 1
        self._move(last, row)
        self.rows.pop()
        self.free.append(slot)

    def _move(self, source: int, target: int) -> None:
        if source == target:
            return
        length = len(self.rows[source].tokens)
        for cache in (self.keys, self.values):
            cache[:, target, :length] = cache[:, source, :length]
        self.rows[target] = self.rows[source]

    def _forward(self, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Return the last hidden states (N, D) of tokens ``ids`` (N,) at ``positions`` (N,)."""
        weights = self.weights
        x = F.embedding(ids, weights.wte) + F.embedding(positions, weights.wpe)
        for number, layer in enumerate(weights.layers):
            x = x + layer.attn_proj(attend(layer.c_attn(layer.ln_1(x)), number))
            x = x + layer.mlp_proj(layer.c_fc(layer.ln_2(x)))
        return weights.ln_f(x)

    def _prompt_attention(self, row: int, length: int) -> Attend:
        def attend(qkv: Tensor, layer: int) -> Tensor:
            q, k, v = qkv.chunk(3, -1)
            self.keys[layer, row, :length] = k
            self.values[layer, row, :length] = v
            q, k, v = (
                t.unflatten(-1, (self.num_heads, -1)).transpose(0, 1)[None] for t in (q, k, v)
            )
            return (
                F.scaled_dot_product_attention(q, k, v, is_causal=True)[0]
                .transpose(0, 1)
                .flatten(1)
            )

        return attend

    def _step_attention(self, positions: Tensor, length: int) -> Attend:
        num_rows = len(positions)
        rows = torch.arange(num_rows, device=self.device)
        mask = (torch.arange(length, device=self.device) <= positions[:, None])[:, None, None]

        def attend(qkv: Tensor, layer: int) -> Tensor:
            q, k, v = qkv.chunk(3, -1)
            keys, values = self.keys[layer], self.values[layer]
            keys[rows, positions] = k
            values[rows, positions] = v
            q = q.unflatten(-1, (self.num_heads, 1, -1))
            k, v = (
                c[:num_rows, :length].unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
                for c in (keys, values)
            )
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).flatten(1)

        return attend

    def _choose(self, logits: Tensor, running: Sequence[Running]) -> None:
        """Append to each sequence its next token, chosen from ``logits`` (N, V)."""
        for row, sequence in zip(logits.float(), running, strict=True):
            seen = torch.tensor(sequence.tokens, device=self.device)
            token = next_token(row, sequence.config, sequence.generator, seen)
            sequence.tokens.append(token)


def check_prompt(prompt: Sequence[int], num_positions: int) -> None:
    """Raise UserError if a prompt is empty or leaves no position for an answer."""
    if not prompt:
        raise UserError("the prompt is empty")
    if len(prompt) >= num_positions:
        raise UserError(
            f"the prompt has {len(prompt)} tokens and leaves no room for an answer: the model "
            f"reads at most {num_positions}; shorten it"
        )
