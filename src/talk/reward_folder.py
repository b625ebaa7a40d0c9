"""The folder of a reward model: one directory that transformers and ours both open.

``config.json`` and ``model.safetensors`` as GPT2ForSequenceClassification reads them, the
tokenizer with a pad token of its own, and the chat template that gives the ids of a conversation.
The rewards are centred: what was taken off is ``reward_offset`` in ``config.json``.
"""

from pathlib import Path
from typing import NamedTuple

from src.data.template import save_template
from src.data.tokenizer import PAD, Tokenizer, load_tokenizer
from src.errors import UserError
from src.files import atomic
from src.files.checksums import write_sums
from src.hub import REWARD_MODEL
from src.model.plain import check_plain
from src.model.pretrained import load_pretrained, num_bytes, write_weights
from src.model.pretrained_config import FILE
from src.model.scalar import (
    HEAD,
    ScalarGPT2,
    centred,
    classifier_config,
    classifier_weights,
    resized,
)
from src.model.weights_file import WEIGHTS, find_weights, folder_with_weights
from src.talk.chat_template import ChatTemplate, asks_as_we_do
from src.talk.model_folder import FILES, REQUIRED


class RewardFolder(NamedTuple):
    """What a folder holds."""

    model: ScalarGPT2
    tokenizer: Tokenizer


def save_reward_folder(
    folder: Path, model: ScalarGPT2, tokenizer: Tokenizer, offset: float
) -> None:
    """Write the folder anew; it gets its name when it is complete.

    Args:
        folder: of the reward model.
        model: a plain one.
        tokenizer: of the policy; its pad token may be its end token.
        offset: what is taken off every reward.

    Raises:
        disk.Unwritten: the disk refuses; the older folder stays.
    """
    check_plain(model)
    padded = tokenizer.with_padding()
    pad_id = padded.special_tokens[padded.names["pad_token"]]
    model = resized(centred(model, offset), max(padded.vocab_size, model.config.vocab_size))
    config = classifier_config(model, tokenizer.end_id, pad_id, offset)
    with atomic.folder(folder, size=num_bytes(model)) as building:
        atomic.write_json(building / FILE, config)
        padded.save(building)
        save_template(building, tokenizer.end_token)
        write_weights(classifier_weights(model), building)
        write_sums(building, {path.name for path in building.iterdir()} - {WEIGHTS})


def load_reward_folder(name_or_path: str, key: str = "objective.reward_model") -> RewardFolder:
    """Load the model and its tokenizer, with a pad token beyond those of the policy.

    Of a run's folder that is its ``reward_model``.

    Raises:
        UserError: there is none, or it has no head of one number; names ``key``.
    """
    of_run = Path(name_or_path).expanduser() / REWARD_MODEL
    place = str(of_run) if (of_run / FILE).is_file() else name_or_path
    folder = folder_with_weights(place, FILES, REQUIRED, key)
    model = load_pretrained(str(folder), key=key, beside=(HEAD,))
    weights = find_weights(folder)
    shape = weights.shapes.get(HEAD)
    if shape != (1, model.config.n_embd):
        found = "there is no score.weight" if shape is None else f"its score.weight is of {shape}"
        raise UserError(
            f"{key}={name_or_path}: no reward model: {found}; train one with objective=reward"
        )
    head = weights.read([HEAD])[HEAD].float()
    return RewardFolder(ScalarGPT2.of(model, head), load_tokenizer(str(folder), key=key))


def policy_reward_model(
    name: str,
    policy: Tokenizer,
    vocab_size: int,
    positions: int,
    key: str,
    remedy: str,
    template: ChatTemplate | None = None,
) -> ScalarGPT2:
    """Return the reward model of a folder for the replies of a policy; it does not learn.

    Args:
        name: of the folder, or on the hub.
        policy: the policy's tokenizer.
        vocab_size: of the policy.
        positions: that a prompt and its reply may take.
        key: of the setting that names it.
        remedy: what makes prompts shorter.
        template: by which the policy is asked; None: by ours, which a reward model learned.

    Raises:
        UserError: there is none, or it reads other tokens or fewer positions, or the policy is
            asked by another template.
    """
    folder = load_reward_folder(name, key)
    if vocabulary(folder.tokenizer) != vocabulary(policy):
        raise UserError(
            f"{key}={name} has another tokenizer than the policy: train one with "
            f"model.pretrained= of the same model"
        )
    if template is not None and not asks_as_we_do(template, policy):
        raise UserError(
            f"{key}={name} learned our chat template, and the policy has another: what it thinks "
            f"of such replies means nothing; leave out {key}, or train the policy here"
        )
    if folder.model.config.n_positions < positions:
        raise UserError(
            f"{key}={name} reads {folder.model.config.n_positions} positions, and a prompt and its "
            f"reply have up to {positions}: {remedy}"
        )
    return resized(folder.model, vocab_size).requires_grad_(False).eval()


def vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the id of each token; the pad token, which a reward model's folder adds, left out."""
    found: dict[str, int] = tokenizer.backend.get_vocab(with_added_tokens=True)
    return {token: number for token, number in found.items() if token != PAD}
