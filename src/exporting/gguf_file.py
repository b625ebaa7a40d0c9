"""GGUF, the file that llama.cpp and Ollama read: weights, tokenizer and chat template in one.

Names, layout and the choice of matrices in float32 follow llama.cpp's ``convert_hf_to_gguf.py`` for
GPT2LMHeadModel. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
from gguf import GGMLQuantizationType as GGMLType
from gguf import LlamaFileType, TokenType

from src.data.tokenizer import Tokenizer
from src.errors import UserError
from src.model.config import ACTIVATIONS
from src.model.gpt2 import GPT2
from src.model.pretrained import PREFIX

ARCHITECTURE = gguf.MODEL_ARCH.GPT2
CONTEXT_STEP = 256  # llama.cpp's context is a multiple of this
HALF_INFINITY = 65520.0  # the smallest number that float16 rounds to infinity
LARGEST_IN = {GGMLType.Q8_0: 127}  # units of a scale, which is a float16
FLOAT32_MATRICES = ("position_embd.weight",)  # vectors are float32, too

# An answer ends with any of them: of a text, of a turn, of a message.
END_KEYS = (gguf.Keys.Tokenizer.EOS_ID, gguf.Keys.Tokenizer.EOT_ID, gguf.Keys.Tokenizer.EOM_ID)

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}

# llama.cpp's names for tokenizers that split a text in this way (src/llama-vocab.cpp). Others split
# single digits, too; smollm alone does not drop spaces before punctuation in decoding.
PRE_TOKENIZERS = {"gpt-2": [BYTE_LEVEL], "smollm": [DIGITS, BYTE_LEVEL]}

log = logging.getLogger(__name__)


def write_gguf(
    path: Path,
    model: GPT2,
    tokenizer: Tokenizer,
    template: str,
    dtype: str,
    name: str,
    end_ids: Sequence[int] = (),
) -> None:
    """Write the file at ``path``.

    Args:
        path: of the file.
        model: its weights and shape.
        tokenizer: its vocabulary, merges and special tokens.
        template: the chat template in Jinja.
        dtype: of matrices: f32, f16 or q8_0, which f16 replaces if 32 does not divide their rows.
        name: of the model, for people.
        end_ids: the tokens that end a reply; the file holds the first ``len(END_KEYS)``.

    Raises:
        UserError: llama.cpp has no tokenizer that gives the same ids, or ``dtype`` cannot hold a
            weight.
    """
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURE])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    _add_shape(writer, model, dtype)
    _add_tokenizer(writer, tokenizer, model.config.vocab_size)
    _add_special_tokens(writer, tokenizer, end_ids or [tokenizer.end_id])
    writer.add_chat_template(template)
    _add_weights(writer, model, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: gguf.GGUFWriter, model: GPT2, dtype: str) -> None:
    config = model.config
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.inner_width)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    kind = "ALL_F32" if dtype == "f32" else f"MOSTLY_{dtype.upper()}"
    writer.add_file_type(LlamaFileType[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if config.n_positions % CONTEXT_STEP:
        log.warning(
            "warning: llama.cpp rounds its context up to a multiple of %d and aborts beyond this "
            "model's %d positions: keep prompt and answer together below that",
            CONTEXT_STEP,
            config.n_positions,
        )
    if config.activation != ACTIVATIONS[0]:
        log.warning(
            "warning: llama.cpp computes every GPT-2 with %s, this one has %s: an answer may "
            "differ in places",
            ACTIVATIONS[0],
            config.activation,
        )


def _add_weights(writer: gguf.GGUFWriter, model: GPT2, dtype: str) -> None:
    """Add the weights: (out, in) both here and in ggml, which ties the head by itself.

    Raises:
        UserError: ``dtype`` cannot hold one.
    """
    names = gguf.get_tensor_name_map(ARCHITECTURE, model.config.n_layer)
    for ours, tensor in model.state_dict().items():
        name = names.get_name(PREFIX + ours, try_suffixes=(".weight", ".bias"))
        assert name is not None, ours
        values = tensor.float().cpu().contiguous().numpy()
        kind = GGMLType[dtype.upper()]
        if tensor.dim() == 1 or name in FLOAT32_MATRICES:
            kind = GGMLType.F32
        elif values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = GGMLType.F16
        largest = abs(values).max()
        if kind != GGMLType.F32 and largest / LARGEST_IN.get(kind, 1) >= HALF_INFINITY:
            raise UserError(
                f"{ours} holds numbers that {kind.name.lower()} cannot, up to "
                f"{largest:.4g}: they would be infinite; take dtype=f32"
            )
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, vocab_size: int) -> None:
    state = json.loads(tokenizer.backend.to_str())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(state))
    tokens, types = _vocabulary(tokenizer, vocab_size)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = [m if isinstance(m, str) else " ".join(m) for m in state["model"]["merges"]]
    if not merges:
        raise UserError("its tokenizer merges nothing, which llama.cpp cannot read")
    writer.add_token_merges(merges)


def _add_special_tokens(
    writer: gguf.GGUFWriter, tokenizer: Tokenizer, end_ids: Sequence[int]
) -> None:
    for key, end_id in zip(END_KEYS, end_ids, strict=False):
        writer.add_uint32(key, end_id)
    if more := end_ids[len(END_KEYS) :]:
        log.warning(
            "warning: a GGUF holds %d tokens that end an answer; left out: %s",
            len(END_KEYS),
            ", ".join(tokenizer.decode([index]) for index in more),
        )
    writer.add_bos_token_id(_named_id(tokenizer, "bos_token"))
    writer.add_pad_token_id(_named_id(tokenizer, "pad_token"))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _named_id(tokenizer: Tokenizer, name: str) -> int:
    """Return the id of a special token; without one of this name, the end token's."""
    index = tokenizer.backend.token_to_id(tokenizer.names.get(name, tokenizer.end_token))
    return tokenizer.end_id if index is None else index


def _vocabulary(tokenizer: Tokenizer, vocab_size: int) -> tuple[list[str], list[TokenType]]:
    """Return every id's token and type; an id without a token is of type unused."""
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [TokenType.UNUSED] * vocab_size
    for token, index in tokenizer.backend.get_vocab(with_added_tokens=False).items():
        tokens[index], types[index] = token, TokenType.NORMAL
    for index, added in tokenizer.backend.get_added_tokens_decoder().items():
        kind = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
        tokens[index], types[index] = added.content, kind
    return tokens, types


def pre_tokenizer(state: dict[str, Any]) -> str:
    """Return llama.cpp's name for the way in which a tokenizer splits a text.

    Args:
        state: the content of ``tokenizer.json``.

    Raises:
        UserError: there is no name, or the tokenizer has a part that llama.cpp lacks.
    """
    model = state["model"]
    features = {
        f"a {model['type']} model": model["type"] != "BPE",
        "a normalizer": state["normalizer"] is not None,
        **{
            key: bool(model.get(key))
            for key in (
                "dropout",
                "continuing_subword_prefix",
                "end_of_word_suffix",
                "byte_fallback",
                "ignore_merges",
            )
        },
        "an added token that takes spaces beside it or whole words only": any(
            token["lstrip"] or token["rstrip"] or token["single_word"]
            for token in state["added_tokens"]
            if not token["special"]
        ),
    }
    for feature, is_present in features.items():
        if is_present:
            raise UserError(
                f"its tokenizer has {feature}, which llama.cpp's GPT-2 tokenizer has not"
            )
    splitter = state["pre_tokenizer"] or {"type": "nothing"}
    steps = splitter["pretokenizers"] if splitter["type"] == "Sequence" else [splitter]
    # trim_offsets does not change ids; old files lack use_regex, which was always true.
    canonical_steps = [
        {k: v for k, v in ({"use_regex": True} | step).items() if k != "trim_offsets"}
        if step["type"] == BYTE_LEVEL["type"]
        else step
        for step in steps
    ]
    for name, pattern in PRE_TOKENIZERS.items():
        if canonical_steps == pattern:
            return name
    kinds = ", ".join(step["type"] for step in steps)
    raise UserError(
        f"its tokenizer splits a text in a way ({kinds}) that no tokenizer of llama.cpp is known "
        f"to share"
    )
