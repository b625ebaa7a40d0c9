"""How much memory GPT-2 takes beside its weights and their gradients.

The sum of what ``gpt2``, ``attention``, ``loss`` and ``logprobs`` keep for the backward pass, and
of what else is alive at the peak: in the loss or in the backward pass. Only tensors count, without
``torch.compile``.

Shape letters: N positions of all blocks, T of a block, D width, H heads, L layers, V vocabulary,
S supervised positions; w bytes of a number in the compute type.
"""

from dataclasses import dataclass
from typing import Literal

from src.model import logprobs
from src.model.attention import Backend, GroupedAttention, choose_backend
from src.model.config import GPT2Config
from src.model.head import VOCABULARY_MULTIPLE
from src.model.loss import CHUNK, tile_size

FLOAT32 = 4

Head = Literal["labels", "logprobs", "number"]
"""What is made of hidden states: the loss of labels, ``token_logprobs``, or one number each."""


def block_matrices(shape: GPT2Config) -> int:
    """Return how many numbers the matrices of one block hold."""
    return (4 * shape.n_embd + 2 * shape.inner_width) * shape.n_embd


def num_parameters(shape: GPT2Config) -> int:
    """Return how many weights there are; the tied head counts once."""
    d, layers = shape.n_embd, shape.n_layer
    embeddings = (shape.vocab_size + shape.n_positions) * d
    return embeddings + 2 * d + layers * (block_matrices(shape) + 9 * d + shape.inner_width)


@dataclass(frozen=True)
class Footprint:
    """The memory of the passes over packed blocks, as a function of their number."""

    shape: GPT2Config
    block_size: int
    device: str
    capability: int  # of the device; see ``compute_capability``
    half_precision: bool  # autocast to bf16 or fp16
    activation_checkpointing: bool
    frozen: bool  # the weights get no gradient
    adapters: int  # bytes a position that a block keeps for the adapters in it
    supervised_share: float  # of the positions
    document_length: float  # mean over positions
    kind: Head = "labels"

    @property
    def width(self) -> int:
        """Bytes of a number in the compute type."""
        return 2 if self.half_precision else FLOAT32

    @property
    def backend(self) -> Backend:
        """The attention in use."""
        return choose_backend(self.device, self.capability, self.half_precision, self.shape.dropout)

    @property
    def head(self) -> int:
        """Bytes of the gradient of embedding and head, which are one matrix."""
        return 0 if self.frozen else FLOAT32 * self.shape.vocab_size * self.shape.n_embd

    def activations(self, num_blocks: int) -> int:
        """Bytes that the forward pass keeps for the backward pass."""
        d, layers = self.shape.n_embd, self.shape.n_layer
        positions = num_blocks * self.block_size
        last = FLOAT32 * d * positions  # the input of the final layer norm
        last += self._mask() * positions
        if self.activation_checkpointing:
            return last + layers * FLOAT32 * d * positions
        return last + layers * (self._layer() * positions + self._cast_matrices())

    def loss(self, num_blocks: int) -> int:
        """Bytes alive while the loss is computed, beside the activations."""
        d, w = self.shape.n_embd, self.width
        vocabulary = self._columns
        hidden = FLOAT32 * d * num_blocks * self.block_size
        if self.kind == "number":
            return 2 * hidden  # and its gradient
        if self.kind == "logprobs":
            return hidden + self._logprobs(num_blocks)
        supervised = self._supervised(num_blocks)
        rows = supervised * d * (2 * FLOAT32 + (w if w < FLOAT32 else 0))
        head = w * vocabulary * d if w < FLOAT32 else 0
        matrix = 0 if self.frozen else vocabulary * d
        peak = previous = total = 0  # of the chunks; their last scores; the weight's gradient
        for start in range(0, min(supervised, 4 * CHUNK), CHUNK):
            chunk = min(CHUNK, supervised - start)
            gradient = w * chunk * vocabulary  # takes the place of the scores
            scoring = gradient + max(previous, self._tile(chunk, vocabulary))
            adding = gradient + (FLOAT32 + w) * matrix
            peak = max(peak, total + scoring, adding)
            previous = gradient
            total = w * matrix if start == 0 else (FLOAT32 + w) * matrix
        return hidden + rows + head + peak

    def _logprobs(self, num_blocks: int) -> int:
        """Bytes alive while ``token_logprobs`` runs backward, its rows among them."""
        d, w, columns = self.shape.n_embd, self.width, self._columns
        tokens = self._supervised(num_blocks)
        rows = tokens * d * (2 * FLOAT32 + (w if w < FLOAT32 else 0))
        chunk = min(logprobs.CHUNK, tokens)
        tile = min(chunk, logprobs.CPU_TILE if self.device == "cpu" else logprobs.GPU_TILE)
        scores = w * chunk * columns + (2 if w < FLOAT32 else 1) * FLOAT32 * tile * columns
        head = w * columns * d if w < FLOAT32 else 0
        gradient = 0 if self.frozen else FLOAT32 * self.shape.vocab_size * d
        product = 0 if self.frozen else w * columns * d
        return rows + head + gradient + max(scores, w * chunk * columns + product)

    @property
    def _columns(self) -> int:
        """Rows of the head in the compute type."""
        vocabulary = self.shape.vocab_size
        return vocabulary + (-vocabulary % VOCABULARY_MULTIPLE if self.half_precision else 0)

    def backward(self, num_blocks: int) -> int:
        """Bytes alive while the last block runs backward, beside the activations."""
        d, w = self.shape.n_embd, self.width
        positions = num_blocks * self.block_size
        inner = self.shape.inner_width
        flowing = ((FLOAT32 + w) * d + 2 * w * inner) * positions
        matrix = 0 if self.frozen else (FLOAT32 + w) * inner * d
        supervised = self._supervised(num_blocks)
        recompute = 0
        if self.activation_checkpointing:
            recompute = self._layer() * positions + self._cast_matrices()
        if self.kind == "number":  # the embedding is no head: it has one gradient
            return max(flowing + matrix + recompute, self.head)
        return max(flowing + matrix + recompute, 2 * self.head + 2 * FLOAT32 * supervised * d)

    def _tile(self, chunk: int, vocabulary: int) -> int:
        """Bytes of the scores that are in fp32 at once; on a GPU a kernel needs none."""
        if self.device == "cuda":
            return 0
        tile = min(chunk, tile_size(self.device, vocabulary))
        return (2 if self.half_precision else 1) * FLOAT32 * tile * vocabulary

    def _supervised(self, num_blocks: int) -> int:
        return int(self.supervised_share * num_blocks * self.block_size)

    def _cast_matrices(self) -> int:
        """A block's matrices in the compute type, which the backward pass multiplies with."""
        return self.width * block_matrices(self.shape) if self.half_precision else 0

    def _layer(self) -> int:
        """Bytes a position that a block keeps without activation checkpointing."""
        d, w = self.shape.n_embd, self.width
        # Two residuals in fp32; two norms' outputs, qkv, attention's output, both sides of the GELU
        size = 2 * FLOAT32 * d + w * (1 + 1 + 3 + 1) * d + self._attention()
        size += w * 2 * self.shape.inner_width
        if self.shape.dropout:
            size += 2 * dropout_bytes(self.device, w) * d
        return size + self.adapters

    def _attention(self) -> int:
        """Bytes a position that attention keeps beside qkv and its output."""
        d, w, heads = self.shape.n_embd, self.width, self.shape.n_head
        if self.backend == "grouped":
            if self.document_length > GroupedAttention.PLAIN_LENGTH:
                return w * d + FLOAT32 * heads
            matrices = 3 if self.shape.dropout else 1  # the softmax; dropout's factors; the product
            return matrices * w * heads * int(self.document_length)
        return FLOAT32 * heads  # the logarithm of each softmax's sum

    def _mask(self) -> int:
        """Bytes a position of the dense mask, which all layers share, as bool and as numbers."""
        return (1 + self.width) * self.block_size if self.backend == "dense" else 0


def dropout_bytes(device: str, width: int) -> int:
    """Return the bytes that dropout keeps for each number of ``width`` bytes.

    A GPU keeps a bool, a CPU the factor itself.
    """
    return width if device == "cpu" else 1
