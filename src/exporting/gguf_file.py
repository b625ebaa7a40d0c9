"""GGUF, the file that llama.cpp and Ollama read: weights, tokenizer and chat template in one.

Names, layout and which matrices stay in float32 are as llama.cpp's ``convert_hf_to_gguf.py`` has
them for GPT2LMHeadModel. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import json
import logging
from pathlib import Path
from typing import Any

import gguf
from gguf import GGMLQuantizationType as GGMLType
from gguf import LlamaFileType, TokenType

from src.data.template import JINJA
from src.data.tokenizer import Tokenizer
from src.errors import UserError
from src.model.config import ACTIVATIONS
from src.model.gpt2 import GPT2
from src.model.pretrained import PREFIX

ARCHITECTURE = gguf.MODEL_ARCH.GPT2
CONTEXT_STEP = 256  # llama.cpp's context is a multiple of it, whatever the model's
KEPT_IN_FLOAT32 = ("position_embd.weight",)  # beside vectors

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}

# What llama.cpp calls a tokenizer that splits a text so (src/llama-vocab.cpp). There are others
# that split single digits; this one also decodes without dropping spaces before punctuation.
PRE_TOKENIZERS = {"gpt-2": [BYTE_LEVEL], "smollm": [DIGITS, BYTE_LEVEL]}

log = logging.getLogger(__name__)


def write_gguf(
    path: Path, model: GPT2, tokenizer: Tokenizer, template: str | None, dtype: str, name: str
) -> None:
    """Write ``path``.

    Args:
        path: the file.
        model: its weights and shape.
        tokenizer: its vocabulary, merges and special tokens.
        template: the chat template in Jinja; None: ours.
        dtype: of the matrices: f32, f16 or q8_0 (Q8_0 wants rows of a multiple of 32 values: other
            matrices are f16).
        name: of the model, for people.

    Raises:
        UserError: llama.cpp has no tokenizer that gives the same ids.
    """
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURE])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    _add_shape(writer, model, dtype)
    _add_tokenizer(writer, tokenizer, model.config.vocab_size)
    writer.add_chat_template(JINJA if template is None else template)
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
    writer.add_feed_forward_length(4 * config.n_embd)
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
    """Add the weights; ours are (out, in), as ggml has them, and it ties the head by itself."""
    names = gguf.get_tensor_name_map(ARCHITECTURE, model.config.n_layer)
    for ours, tensor in model.state_dict().items():
        name = names.get_name(PREFIX + ours, try_suffixes=(".weight", ".bias"))
        assert name is not None, ours
        values = tensor.float().cpu().contiguous().numpy()
        kind = GGMLType[dtype.upper()]
        if tensor.dim() == 1 or name in KEPT_IN_FLOAT32:
            kind = GGMLType.F32
        elif values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = GGMLType.F16
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
    writer.add_bos_token_id(tokenizer.end_id)
    writer.add_eos_token_id(tokenizer.end_id)
    writer.add_pad_token_id(tokenizer.end_id)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _vocabulary(tokenizer: Tokenizer, vocab_size: int) -> tuple[list[str], list[TokenType]]:
    """Return every id's token and type; ids of the model that no token has are unused."""
    tokens = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [TokenType.UNUSED] * vocab_size
    for token, index in tokenizer.backend.get_vocab(with_added_tokens=False).items():
        tokens[index], types[index] = token, TokenType.NORMAL
    for index, added in tokenizer.backend.get_added_tokens_decoder().items():
        kind = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
        tokens[index], types[index] = added.content, kind
    return tokens, types


def pre_tokenizer(state: dict[str, Any]) -> str:
    """Return llama.cpp's name for how the tokenizer of ``tokenizer.json`` splits a text.

    Raises:
        UserError: it has none, or another part of the tokenizer does what llama.cpp does not.
    """
    model = state["model"]
    peculiar = {
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
    for what, has_it in peculiar.items():
        if has_it:
            raise UserError(f"its tokenizer has {what}, which llama.cpp's GPT-2 tokenizer has not")
    whole = state["pre_tokenizer"] or {"type": "nothing"}
    steps = whole["pretokenizers"] if whole["type"] == "Sequence" else [whole]
    # trim_offsets does not change ids; old files lack use_regex, which was always true.
    alike = [
        {k: v for k, v in ({"use_regex": True} | step).items() if k != "trim_offsets"}
        if step["type"] == BYTE_LEVEL["type"]
        else step
        for step in steps
    ]
    for name, known in PRE_TOKENIZERS.items():
        if alike == known:
            return name
    kinds = ", ".join(step["type"] for step in steps)
    raise UserError(
        f"its tokenizer splits a text in a way ({kinds}) that no tokenizer of llama.cpp is known "
        f"to share"
    )
