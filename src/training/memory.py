"""How much device memory a training step needs, before it is tried.

What the model's passes keep (``model/footprint.py``), and what training adds: weights, gradients,
AdamW's two moments, adapters, FSDP's shares; the optimizer's step, fused, needs nothing more. The
tests hold it within 15% of the tensors alive in real steps on one device, in bf16 and fp32; FSDP's
share is arithmetic alone. Not counted: what the CUDA context itself takes (about half a GiB),
fragmentation, and what ``torch.compile`` changes.
"""

from dataclasses import dataclass, replace

from src.data.blocks import Blocks
from src.errors import UserError
from src.model.attention import GroupedAttention
from src.model.config import GPT2Config
from src.model.footprint import (
    FLOAT32,
    Footprint,
    Head,
    block_matrices,
    dropout_bytes,
    num_parameters,
)
from src.training.config import TrainConfig
from src.training.machine import Machine

GIB = 2**30
CPU_TOKENS = 4096  # positions of a micro-batch on a CPU: more is no faster
GPU_BLOCKS = 64
MPS_BLOCKS = 8
SHARE_FILLED = 0.85  # of the device's memory, by the estimate: it may be as much too low
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
    capability: int  # of the device; see ``compute_capability``
    precision: str
    activation_checkpointing: bool
    lora_rank: int | None
    lora_dropout: float = 0.0
    accumulates: bool = True
    num_shards: int = 1
    supervised_share: float = 1.0  # of the positions
    document_length: float = GroupedAttention.PLAIN_LENGTH  # mean over positions; on a CPU
    head: Head = "labels"
    num_learning: int = 1  # networks of this shape, whose losses are added up
    num_frozen: int = 0  # networks of this shape beside them
    num_cached: int = 0  # positions whose keys and values are kept while replies are drawn

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        machine: Machine,
        shape: GPT2Config,
        block_size: int,
    ) -> "TrainingStep":
        """Return the step of a run whose machine and block size are known."""
        return cls(
            shape=shape,
            block_size=block_size,
            device=machine.device,
            capability=machine.capability,
            precision=machine.precision,
            activation_checkpointing=config.trainer.activation_checkpointing,
            lora_rank=config.lora.rank,
            lora_dropout=config.lora.dropout,
            num_shards=machine.num_shards,
        )

    def on(self, blocks: Blocks) -> "TrainingStep":
        """Return the same step with the figures of the blocks that it will compute.

        Of replies that are drawn nothing is known before: each may have all positions.
        """
        if self.num_cached:
            return self
        positions = max(1, len(blocks) * blocks.block_size)
        scored = blocks.num_targets + blocks.num_prompt_targets
        if self.head == "logprobs":  # of all tokens at most: prompts are not
            scored = blocks.num_tokens
        return replace(
            self,
            supervised_share=scored / positions,
            document_length=blocks.attended_length,
        )

    @property
    def num_parameters(self) -> int:
        """Weights of the model, adapters apart."""
        return num_parameters(self.shape)

    @property
    def num_trainable(self) -> int:
        """Weights that learn."""
        if self.lora_rank is None:
            return self.num_parameters
        inputs_and_outputs = 8 * self.shape.n_embd + 2 * self.shape.inner_width  # of a block
        return self.lora_rank * inputs_and_outputs * self.shape.n_layer

    @property
    def _footprint(self) -> Footprint:
        return Footprint(
            shape=self.shape,
            block_size=self.block_size,
            device=self.device,
            capability=self.capability,
            half_precision=self._width < FLOAT32,
            activation_checkpointing=self.activation_checkpointing,
            frozen=self.lora_rank is not None,
            adapters=self._adapters(),
            supervised_share=self.supervised_share,
            document_length=self.document_length,
            kind=self.head,
        )

    @property
    def _width(self) -> int:
        """Bytes of a number in the compute type."""
        return FLOAT32 if self.precision == "32-true" else 2

    def _adapters(self) -> int:
        """Bytes a position that the adapters of a block keep."""
        if self.lora_rank is None:
            return 0
        d, w = self.shape.n_embd, self._width
        size = 4 * w * self.lora_rank
        if self.lora_dropout:  # of two norms, attention and the GELU; two of them twice
            first, rest = dropout_bytes(self.device, FLOAT32), dropout_bytes(self.device, w)
            size += (2 * first + 5 * rest) * d + w * d
        return size

    def memory(self, num_blocks: int) -> Memory:
        """Return what a micro-batch of ``num_blocks`` blocks needs on each device."""
        passes, gathered = self._footprint, self._gathered()
        workspace = max(passes.loss(num_blocks), passes.backward(num_blocks)) + gathered
        moments = [
            Memory(
                self._state(gradients=self.accumulates),
                self.num_learning * passes.activations(num_blocks),
                workspace,
            )
        ]
        if not self.accumulates:  # the end of the backward pass; the embedding's gradient is last
            moments.append(Memory(self._state(gradients=True), 0, passes.head + gathered))
        if self.num_cached:
            cache = 2 * FLOAT32 * self.shape.n_layer * self.shape.n_embd * self.num_cached
            moments.append(Memory(self._state(gradients=False), 0, cache))
        return max(moments, key=lambda moment: moment.total)

    def _state(self, gradients: bool) -> int:
        adapters = self.num_trainable if self.lora_rank is not None else 0
        num_networks = self.num_learning + self.num_frozen
        weights = FLOAT32 * (num_networks * self.num_parameters + adapters)
        copies = 3 if gradients else 2  # AdamW's moments
        learning = self.num_learning * self.num_trainable
        return (weights + copies * FLOAT32 * learning) // self.num_shards

    def _gathered(self) -> int:
        """FSDP gathers embedding and head for the whole step, and two blocks at a time.

        The blocks' gradients are whole for a moment, too.
        """
        if self.num_shards == 1:
            return 0
        embeddings = (self.shape.vocab_size + self.shape.n_positions) * self.shape.n_embd
        return FLOAT32 * (2 * embeddings + 4 * block_matrices(self.shape))


def choose_micro_batch_size(step: TrainingStep, memory: int) -> int:
    """Return how many blocks a device takes at a time, at most: what ``memory`` bytes hold."""
    limits = {"cpu": max(1, CPU_TOKENS // step.block_size), "cuda": GPU_BLOCKS, "mps": MPS_BLOCKS}
    room = SHARE_FILLED * memory
    fitting = [n for n in range(1, limits[step.device] + 1) if step.memory(n).total <= room]
    return max(fitting, default=1)


def check_memory(
    step: TrainingStep, num_blocks: int, available: int, is_limited: bool = False
) -> list[str]:
    """Return a warning if a step will hardly fit into ``available`` bytes.

    Args:
        step: what is computed.
        num_blocks: of a micro-batch.
        available: bytes of the device.
        is_limited: on a CPU, whether a process that takes more is killed; otherwise it may swap.

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
        limit = " within the limit of its container or ulimit" if is_limited else ""
        text = (
            f"training on one block of {step.block_size} needs about {one / GIB:.1f} GiB and "
            f"{step.device} has {available / GIB:.1f}{limit}: {way_out(step, available)}"
        )
        if step.device == "cpu" and not is_limited:
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
