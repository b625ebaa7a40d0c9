"""A GPT-2 that gives a number: the reward of a reply at its last token, or a value at each.

The head is one row without bias, first drawn from N(0, 1 / (D + 1)) (Stiennon et al.,
arXiv:2009.01325). The reward is read at the index of the last token, which the batch holds: no
padding is searched for, so one text has one score, alone or packed.

In Hugging Face's names this is GPT2ForSequenceClassification with one label. It reads the reward at
the last token that is not padding, so its pad token must not be the end token: a reply that ends
and the same reply cut short would have one score. The folder's pad token is a token that no text
holds.

Shape letters: B blocks, T positions, D width, N replies.
"""

from dataclasses import replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from src.model.config import GPT2Config
from src.model.gpt2 import GPT2
from src.model.pretrained import EMBEDDING, NoInit, to_hugging_face
from src.model.pretrained_config import hugging_face_config

HEAD = "score.weight"  # by Hugging Face's name and ours
OFFSET = "reward_offset"  # in config.json: what has been taken off all rewards


class ScalarGPT2(GPT2):
    """Hidden states to one number each; ``logits`` of next tokens are those of its embedding."""

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.score = nn.Linear(config.n_embd, 1, bias=False)
        if not self.score.weight.is_meta:
            nn.init.normal_(self.score.weight, std=1 / sqrt(config.n_embd + 1))

    @classmethod
    def of(cls, model: GPT2, head: Tensor | None = None) -> "ScalarGPT2":
        """Return a model with the weights of ``model``, which it shares, and a head.

        Args:
            model: the blocks and embeddings.
            head: (1, D); None: drawn from torch's random generator.
        """
        width = model.config.n_embd
        if head is None:
            head = torch.randn(1, width) / sqrt(width + 1)
        with torch.device("meta"), NoInit():
            scalar = cls(model.config)
        scalar.load_state_dict({**model.state_dict(), HEAD: head}, assign=True)
        return scalar.requires_grad_().train(model.training)

    def values(self, hidden: Tensor) -> Tensor:
        """Return the number (...) of each of the hidden states (..., D), in fp32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return (hidden.float() @ self.score.weight.float().t()).squeeze(-1)

    def rewards(self, hidden: Tensor, last_index: Tensor) -> Tensor:
        """Return the reward (N,) of each reply.

        Args:
            hidden: (B, T, D).
            last_index: (N,) int64 the last token of each reply in the flattened B x T.
        """
        return self.values(hidden.flatten(0, 1).index_select(0, last_index))


def centred(model: ScalarGPT2, offset: float) -> ScalarGPT2:
    """Return a model whose rewards are lower by ``offset``; ``model`` does not change.

    A reward is the product of the head w with what the last layer norm gives, so an offset can
    stand in the norm's bias: less ``offset`` w / |w|^2. Whoever opens the folder then has centred
    rewards, transformers too, which knows no bias of the head.
    """
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    head = state[HEAD][0].double()
    bias = state["ln_f.bias"]
    state["ln_f.bias"] = (bias.double() - offset * head / head.square().sum()).to(bias.dtype)
    with torch.device("meta"), NoInit():
        plain = ScalarGPT2(model.config)
    plain.load_state_dict(state, assign=True)
    return plain.eval()


def resized(model: ScalarGPT2, vocab_size: int) -> ScalarGPT2:
    """Return a model of ``vocab_size`` tokens: new embeddings are zero, or the last are left out.

    ``model`` does not change; both share the other weights.
    """
    missing = vocab_size - model.config.vocab_size
    if not missing:
        return model
    state = model.state_dict()
    embedding = state[EMBEDDING]
    new = embedding.new_zeros(max(missing, 0), embedding.shape[1])
    state[EMBEDDING] = torch.cat([embedding[:vocab_size], new])
    with torch.device("meta"), NoInit():
        other = ScalarGPT2(replace(model.config, vocab_size=vocab_size))
    other.load_state_dict(state, assign=True)
    return other.eval()


def classifier_config(model: ScalarGPT2, end_id: int, pad_id: int, offset: float) -> dict[str, Any]:
    """Return the ``config.json`` with which transformers opens the folder."""
    return {
        **hugging_face_config(model.config, [end_id]),
        "architectures": ["GPT2ForSequenceClassification"],
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
        "num_labels": 1,
        "pad_token_id": pad_id,
        OFFSET: offset,
    }


def classifier_weights(model: ScalarGPT2) -> dict[str, Tensor]:
    """Return the weights under Hugging Face's names, on the CPU."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    head = state.pop(HEAD)
    return {**to_hugging_face(state), HEAD: head.contiguous()}
