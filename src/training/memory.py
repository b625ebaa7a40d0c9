"""How much device memory a training step needs, before it is tried.

Counted from what ``model/`` keeps for the backward pass and what is alive beside it, when most is:
in the loss, or in the backward pass; the optimizer's step, fused, needs nothing more. The tests
hold it within 15% of the tensors alive in real steps on one device, in bf16 and fp32; FSDP's share
is arithmetic alone. Not counted: what the CUDA context itself takes (about half a GiB),
fragmentation, and what ``torch.compile`` changes.

Shape letters: N positions of a micro-batch, T of a block, D width, H heads, L layers, V vocabulary,
S supervised positions; w bytes of a number in the compute type.
"""

from dataclasses import dataclass, replace

from src.data.blocks import Blocks
from src.errors import UserError
from src.model.attention import GroupedAttention
from src.model.config import GPT2Config
from src.model.loss import CHUNK, CPU_TILE, GPU_TILE, VOCABULARY_MULTIPLE
from src.training.config import TrainConfig

GIB = 2**30
FLOAT32 = 4
ERROR = 0.15  # how far the estimate may be from what is measured: the tests hold it
LORA_RANK = 16  # of the advice
NUMS_DEVICES = (2, 4, 8)  # of the advice


@dataclass(frozen=True)
class Memory:
    """Bytes of a device, at the worst moment of a step."""

    state: int  # weights, AdamW's two moments, and gradients if they are alive then
    activations: int  # kept for the backward pass, cast weights among them
    workspace: int  # whatever else is alive then

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.activations + self.workspace


@dataclass(frozen=True)
class TrainingStep:
    """What decides how much memory a step needs, but for the number of blocks.

    ``accumulates``: a step has several micro-batches, so that gradients are alive in the forward
    pass of all but the first. ``num_shards`` is the number of devices that weights, gradients and
    optimizer state are spread over (FSDP); 1: each device has all of them (DDP too).
    """

    shape: GPT2Config
    block_size: int
    device: str
    precision: str
    activation_checkpointing: bool
    lora_rank: int | None
    lora_dropout: float = 0.0
    accumulates: bool = True
    num_shards: int = 1
    supervised_share: float = 1.0  # of the positions
    document_length: float = GroupedAttention.PLAIN_LENGTH  # mean over positions; on a CPU

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        shape: GPT2Config,
        device: str,
        precision: str,
        num_shards: int = 1,
    ) -> "TrainingStep":
        """Return the step of a run whose block size, device and precision are known."""
        return cls(
            shape=shape,
            block_size=config.data.block_size,
            device=device,
            precision=precision,
            activation_checkpointing=config.trainer.activation_checkpointing,
            lora_rank=config.lora.rank,
            lora_dropout=config.lora.dropout,
            num_shards=num_shards,
        )

    def on(self, blocks: Blocks) -> "TrainingStep":
        """Return the same step, on what it will really be given."""
        positions = max(1, len(blocks) * blocks.block_size)
        lengths = blocks.lengths.astype(float)
        return replace(
            self,
            supervised_share=blocks.num_labels / positions,
            document_length=(lengths**2).sum() / max(1.0, lengths.sum()),
        )

    @property
    def num_parameters(self) -> int:
        """Weights of the model, adapters apart."""
        d, layers = self.shape.n_embd, self.shape.n_layer
        return (self.shape.vocab_size + self.shape.n_positions + 2) * d + layers * (
            self._block_matrices + 13 * d
        )

    @property
    def num_trainable(self) -> int:
        """Weights that learn."""
        if self.lora_rank is None:
            return self.num_parameters
        return 16 * self.lora_rank * self.shape.n_embd * self.shape.n_layer

    @property
    def _block_matrices(self) -> int:
        return 12 * self.shape.n_embd**2

    @property
    def _width(self) -> int:
        """Bytes of a number in the compute type."""
        return FLOAT32 if self.precision == "32-true" else 2

    def memory(self, num_blocks: int) -> Memory:
        """Return what a micro-batch of ``num_blocks`` blocks needs on each device."""
        kept = self._kept(num_blocks)
        workspace = max(self._loss(num_blocks), self._backward(num_blocks)) + self._gathered()
        moments = [Memory(self._state(gradients=self.accumulates), kept, workspace)]
        if not self.accumulates:  # the end of the backward pass; the embedding's gradient is last
            moments.append(Memory(self._state(gradients=True), 0, self._head() + self._gathered()))
        return max(moments, key=lambda moment: moment.total)

    def _state(self, gradients: bool) -> int:
        adapters = self.num_trainable if self.lora_rank is not None else 0
        weights = FLOAT32 * (self.num_parameters + adapters)
        copies = 3 if gradients else 2  # AdamW's moments
        return (weights + copies * FLOAT32 * self.num_trainable) // self.num_shards

    def _head(self) -> int:
        """Bytes of the gradient of embedding and head, which are one matrix."""
        vocabulary = self.shape.vocab_size if self.lora_rank is None else 0
        return FLOAT32 * vocabulary * self.shape.n_embd

    def _gathered(self) -> int:
        """FSDP gathers embedding and head for the whole step, and two blocks at a time.

        The blocks' gradients are whole for a moment, too.
        """
        if self.num_shards == 1:
            return 0
        embeddings = (self.shape.vocab_size + self.shape.n_positions) * self.shape.n_embd
        return FLOAT32 * (2 * embeddings + 4 * self._block_matrices)

    def _kept(self, num_blocks: int) -> int:
        """Bytes kept from the forward pass for the backward pass."""
        d, layers = self.shape.n_embd, self.shape.n_layer
        positions = num_blocks * self.block_size
        last = FLOAT32 * d * positions  # what the final layer norm is given
        last += self._mask() * positions
        if self.activation_checkpointing:
            return last + layers * FLOAT32 * d * positions
        return last + layers * (self._layer() * positions + self._cast_matrices())

    def _cast_matrices(self) -> int:
        """A block's matrices in the compute type, which the backward pass multiplies with."""
        return self._width * self._block_matrices if self._width < FLOAT32 else 0

    def _layer(self) -> int:
        """Bytes a position that a block keeps, if it is not checkpointed."""
        d, w = self.shape.n_embd, self._width
        # Two residuals in fp32; two norms' outputs, qkv, attention's output, both sides of the GELU
        kept = 2 * FLOAT32 * d + w * (1 + 1 + 3 + 1 + 4 + 4) * d + self._attention()
        # What was dropped is known by a byte each on a GPU, by the factor itself on a CPU.
        residual, first = (w, FLOAT32) if self.device == "cpu" else (1, 1)
        if self.shape.dropout:
            kept += 2 * residual * d
        if self.lora_rank is not None:
            kept += 4 * w * self.lora_rank
            if self.lora_dropout:  # of two norms, attention and the GELU; two of these kept twice
                kept += (2 * first + 5 * residual) * d + w * d
        return kept

    def _attention(self) -> int:
        """Bytes a position that attention keeps beside qkv and its output."""
        d, w, heads = self.shape.n_embd, self._width, self.shape.n_head
        if self.device == "cpu":
            if self.document_length > GroupedAttention.PLAIN_LENGTH:
                return w * d + FLOAT32 * heads
            kept = 3 if self.shape.dropout else 1  # the softmax; by which factor; what was left
            return kept * w * heads * int(self.document_length)
        return FLOAT32 * heads  # the logarithm of each softmax's sum

    def _mask(self) -> int:
        """Bytes a position of the dense mask, which all layers share: itself, and as it is added.

        With 16-mixed as on Turing, which has no FlashAttention.
        """
        flash = self.device == "cuda" and self.precision == "bf16-mixed" and not self.shape.dropout
        return 0 if flash or self.device == "cpu" else (1 + self._width) * self.block_size

    def _loss(self, num_blocks: int) -> int:
        """Bytes alive while the loss is computed, beside what is kept."""
        d, w = self.shape.n_embd, self._width
        vocabulary = self.shape.vocab_size
        if w < FLOAT32:
            vocabulary += -vocabulary % VOCABULARY_MULTIPLE
        hidden = FLOAT32 * d * num_blocks * self.block_size
        supervised = self._supervised(num_blocks)
        rows = supervised * d * (2 * FLOAT32 + (w if w < FLOAT32 else 0))
        head = w * vocabulary * d if w < FLOAT32 else 0
        matrix = 0 if self.lora_rank is not None else vocabulary * d
        worst = before = summed = 0  # of the chunks, the scores of the last one among them
        for start in range(0, min(supervised, 4 * CHUNK), CHUNK):
            chunk = min(CHUNK, supervised - start)
            gradient = w * chunk * vocabulary  # takes the place of the scores
            scoring = gradient + max(before, self._tile(chunk, vocabulary))
            adding = gradient + (FLOAT32 + w) * matrix
            worst = max(worst, summed + scoring, adding)
            before = gradient
            summed = w * matrix if start == 0 else (FLOAT32 + w) * matrix
        return hidden + rows + head + worst

    def _tile(self, chunk: int, vocabulary: int) -> int:
        """Bytes of the scores that are in fp32 at once; on a GPU a kernel needs none."""
        if self.device == "cuda":
            return 0
        tile = min(chunk, CPU_TILE if self.device == "cpu" else GPU_TILE)
        copies = 1 if self._width == FLOAT32 else 2
        return copies * FLOAT32 * tile * vocabulary

    def _supervised(self, num_blocks: int) -> int:
        return int(self.supervised_share * num_blocks * self.block_size)

    def _backward(self, num_blocks: int) -> int:
        """Bytes alive while the last block runs backward, beside what is kept."""
        d, w = self.shape.n_embd, self._width
        positions = num_blocks * self.block_size
        flowing = (FLOAT32 + 9 * w) * d * positions
        matrix = (FLOAT32 + w) * 4 * d**2 if self.lora_rank is None else 0
        supervised = self._supervised(num_blocks)
        again = 0
        if self.activation_checkpointing:
            again = self._layer() * positions + self._cast_matrices()
        return max(flowing + matrix + again, 2 * self._head() + 2 * FLOAT32 * supervised * d)


def check_memory(step: TrainingStep, num_blocks: int, available: int) -> list[str]:
    """Return a warning if a step will hardly fit into ``available`` bytes.

    Raises:
        UserError: even one block will not fit, on a device whose memory is a hard limit; names
            what would.
    """
    needed = step.memory(num_blocks).total
    if needed <= available:
        return []
    one = step.memory(1).total
    least = (1 - ERROR) * one
    if least > available:
        text = (
            f"training on one block of {step.block_size} needs about {one / GIB:.1f} GiB and "
            f"{step.device} has {available / GIB:.1f}: {way_out(step, available)}"
        )
        if step.device == "cpu":
            return [text]
        raise UserError(text)
    how = "lower micro_batch_size" if num_blocks > 1 else way_out(step, available)
    return [
        f"a step of {num_blocks} blocks needs about {needed / GIB:.1f} GiB and {step.device} has "
        f"{available / GIB:.1f}: {how}"
    ]


def way_out(step: TrainingStep, available: int) -> str:
    """Return which settings would let one block fit into ``available`` bytes."""
    checkpointed = replace(step, activation_checkpointing=True)
    ways = {
        "trainer.activation_checkpointing=true": checkpointed,
        f"lora.rank={LORA_RANK}": replace(step, lora_rank=LORA_RANK),
        f"lora.rank={LORA_RANK} trainer.activation_checkpointing=true": replace(
            checkpointed, lora_rank=LORA_RANK
        ),
    } | {
        f"trainer.strategy=fsdp trainer.activation_checkpointing=true on {number} devices": replace(
            checkpointed, num_shards=number
        )
        for number in NUMS_DEVICES
        if step.num_shards < number and step.lora_rank is None
    }
    fitting = [
        way for way, other in ways.items() if other != step and other.memory(1).total <= available
    ]
    smaller = [way for way in fitting if not any(w != way and w in way for w in fitting)]
    num_fsdp = [way for way in smaller if "fsdp" in way][1:]  # the fewest devices are enough
    return ", or ".join(
        [*(way for way in smaller if way not in num_fsdp), "a lower data.block_size"]
    )
