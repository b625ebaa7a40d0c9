"""llama.cpp's decoding of the same weights, through llama-cpp-python: a GGUF file of ours.

Its own loop of C functions, greedy, without its tokenizer and its samplers: what the library adds
in Python is not measured. https://llama-cpp-python.readthedocs.io/en/latest/api-reference/
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.benchmark.turns import Job
from src.exporting.exports import MODEL, open_model_folder, write_gguf_folder

CONTEXT_STEP = 256  # llama.cpp's context of a stream is a multiple of this


@dataclass(frozen=True)
class Engine:
    """A loaded model with room for some streams."""

    library: Any  # llama_cpp, whose functions have no types
    context: Any
    batch: Any
    vocab_size: int

    def read(self, tokens: list[list[int]], start: int) -> np.ndarray:
        """Read ``tokens`` of each stream from position ``start``.

        Returns the likeliest next token (streams,) of each.
        """
        batch, count, last = self.batch, 0, []
        for stream, ids in enumerate(tokens):
            for position, token in enumerate(ids, start):
                batch.token[count], batch.pos[count] = token, position
                batch.n_seq_id[count], batch.seq_id[count][0] = 1, stream
                batch.logits[count] = position - start == len(ids) - 1
                count += 1
            last.append(count - 1)
        batch.n_tokens = count
        if error := self.library.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {error}")
        scores = (self.library.llama_get_logits_ith(self.context, index) for index in last)
        return np.array([np.ctypeslib.as_array(s, (self.vocab_size,)).argmax() for s in scores])

    def answer(self, prompts: list[list[int]], num_tokens: int) -> int:
        """Decode ``num_tokens`` after each prompt, all of one length; return how many in all."""
        memory = self.library.llama_get_memory(self.context)
        self.library.llama_memory_clear(memory, False)
        chosen = self.read(prompts, 0)
        for number in range(num_tokens - 1):
            chosen = self.read(chosen[:, None].tolist(), len(prompts[0]) + number)
        return num_tokens * len(prompts)


@contextmanager
def open_engine(
    job: Job, dtype: str, num_streams: int, num_positions: int, repack: bool
) -> Iterator[Engine]:
    """Yield an engine of the shared weights as ``dtype``, with as many threads as torch has.

    All is llama.cpp's own choice, but for room in one pass for all prompts, and for ``repack``:
    whether weights are laid out anew for the processor.
    """
    import llama_cpp as library

    path = _write(job, dtype)
    room = -(-num_positions // CONTEXT_STEP) * CONTEXT_STEP
    parameters = library.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = num_streams * room
    parameters.n_seq_max = num_streams
    parameters.n_threads = parameters.n_threads_batch = torch.get_num_threads()
    layout = library.llama_model_default_params()
    layout.use_extra_bufts = repack
    library.llama_backend_init()
    model = library.llama_model_load_from_file(str(path).encode(), layout)
    context = library.llama_init_from_model(model, parameters) if model else None
    if not context:
        raise RuntimeError(f"llama.cpp does not open {path}")
    batch = library.llama_batch_init(parameters.n_batch, 0, 1)
    vocab = library.llama_model_get_vocab(model)
    try:
        yield Engine(library, context, batch, library.llama_vocab_n_tokens(vocab))
    finally:
        library.llama_batch_free(batch)
        library.llama_free(context)
        library.llama_model_free(model)


def _write(job: Job, dtype: str) -> Path:
    """Return a GGUF file of the shared weights, written in the first round."""
    folder = job.folder.parent / f"gguf_{dtype}"
    if not folder.exists():
        write_gguf_folder(open_model_folder(job.config.model_folder), folder, dtype, False)
    return folder / MODEL
