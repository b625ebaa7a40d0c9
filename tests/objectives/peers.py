"""What trainers of other projects want beside a model."""

from tokenizers import Tokenizer, models, pre_tokenizers


def tiny_tokenizer(end: int, pad: int):
    """A tokenizer of transformers whose tokens are single letters, with an end and a pad token."""
    from transformers import PreTrainedTokenizerFast

    words = {chr(0x100 + n): n for n in range(end)} | {"<|endoftext|>": end, "<|pad|>": pad}
    words["a"], words["b"] = words.pop(chr(0x100)), words.pop(chr(0x101))
    backend = Tokenizer(models.WordLevel(words, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|pad|>" if pad != end else "<|endoftext|>",
        unk_token="a",
    )
