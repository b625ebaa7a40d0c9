"""What will happen, said before it does."""

from pathlib import Path

from src.data.blocks import Blocks
from src.data.datamodule import ChatDataModule
from src.data.order import Batching, usable_workers
from src.data.report import OTHER_PART, OVER_MAX_ROWS, RowReport
from src.data.sources import SPLITS
from src.training.config import AUTO, TrainConfig
from src.training.ending import ending
from src.training.machine import Machine
from src.training.memory import GIB, TrainingStep
from src.training.optimizer import warmup_steps
from src.training.origin import Origin
from src.training.plan import Plan
from src.training.validation import MOST_OF_TRAINING, Validations


def preflight_report(
    config: TrainConfig,
    data: ChatDataModule,
    plan: Plan,
    due: str,
    run_folder: Path,
    origin: Origin | None = None,
) -> list[str]:
    """Return the report as aligned lines; ``due`` says how much of the rows is taught."""
    train, machine, batching = data.splits["train"], plan.machine, plan.batching
    warmup = warmup_steps(config.optimizer, plan.num_steps)
    epochs = plan.num_steps / data.steps_per_epoch
    used = ", ".join(f"{data.report.used[split]:,} {split}" for split in SPLITS)
    blocks = ", ".join(f"{len(data.splits[split]):,} {split}" for split in SPLITS)
    start = origin.name if origin else config.continue_from or config.model.pretrained
    several = batching.num_devices > 1
    devices = f"{batching.num_devices} x " if several else ""
    rows = {
        "rows": f"{data.report.read:,} read: {used}{_joined(data)}{_dropped(data)}",
        **_sources(data),
        "not used": _not_used(data.report),
        data.unit: f"{blocks}; {plan.block_size} positions"
        + (f", {train.utilisation:.2%} used" if data.unit == "blocks" else "")
        + f", {due}",
        "unusual": ("\n" + " " * 11).join(_unusual(config)),
        "steps": f"{plan.num_steps:,} ({epochs:.2f} epochs), warmup {warmup:,} "
        f"({warmup / plan.num_steps:.1%}), validated every {plan.val_every_n_steps:,}",
        "validation": _validation(data, plan.validations),
        "test": _test(config, data),
        "step": _step(config, data, batching),
        "model": f"{plan.step.num_parameters:,} parameters, "
        + (f"from {start}" if start else "random weights")
        + _adapters(plan.step),
        "goes on": origin.describe(data.key) if origin else "",
        **ending(config, plan, origin.step if origin else 0),
        "device": f"{devices}{machine.device}, {machine.precision}"
        + (f", {machine.strategy}" if several else "")
        + (", compiled" if config.trainer.compile else ""),
        "cores": _cores(config, machine),
        "memory": _memory(plan),
        "run folder": str(run_folder),
    }
    return [f"{name:<11}{text}" for name, text in rows.items() if text]


def preflight_warnings(config: TrainConfig, data: ChatDataModule, plan: Plan) -> list[str]:
    """Return what looks wrong, each with what to do about it."""
    train = data.splits["train"]
    warnings = []
    if data.unit != "blocks":
        pass  # each is computed at its own length
    elif train.num_tokens < data.block_size:
        warnings.append(
            f"the training rows hold {train.num_tokens} tokens, less than one block of "
            f"{data.block_size}: add rows or lower data.block_size"
        )
    elif train.utilisation < 0.95:
        how = "set data.packing=true" if not config.data.packing else "lower data.block_size"
        warnings.append(
            f"only {train.utilisation:.1%} of the training positions hold a token, the rest is "
            f"padding that costs the same: {how}"
        )
    share = plan.validations.share
    if share > 2 * MOST_OF_TRAINING and config.trainer.max_val_blocks != AUTO:
        warnings.append(
            f"validation takes about {share:.0%} of the time of training: leave "
            f"trainer.max_val_blocks at auto, or raise trainer.val_every_n_steps"
        )
    if data.unit == "blocks" and len(train) < config.batch_size:
        warnings.append(
            f"batch_size={config.batch_size} is more than the {len(train)} training blocks: each "
            f"step has all of them, and only those; lower batch_size or data.block_size, or add "
            f"rows"
        )
    for split in ("validation", "test"):
        if not len(data.splits[split]):
            warnings.append(
                f"there are no {split} rows: raise data.{split}_fraction or name data.{split}_split"
            )
        elif nearly := data.shared_prompts(split, nearly=True):
            exactly = data.shared_prompts(split)
            warnings.append(
                f"{nearly:,} of {data.report.used[split]:,} {split} rows have a prompt "
                f"that is in train too ({exactly:,} exactly, {nearly - exactly:,} but for case, "
                f"spaces and punctuation): their {split} figures flatter the model"
            )
    machine = plan.machine
    if machine.threads > machine.cores:
        warnings.append(
            f"{machine.threads} threads share {machine.cores} cores: trainer.threads=auto takes as "
            f"many as there are"
        )
    return warnings + [f"rows left out: {line}" for line in data.report.explain()]


def _validation(data: ChatDataModule, validations: Validations) -> str:
    if not validations.num:
        return ""
    times = f"{validations.num} times" if validations.num > 1 else "once"
    share = f"about {validations.share:.1%} of training's time"
    return f"{_scored(data, 'validation')}, {times}: {share}"


def _test(config: TrainConfig, data: ChatDataModule) -> str:
    if not len(data.splits["test"]):
        return ""
    text = f"{_scored(data, 'test')}, once, at the end"
    if config.exact_match:
        text += f"; its prompts are answered with at most {config.generation.max_new_tokens} tokens"
    return text


def _scored(data: ChatDataModule, split: str) -> str:
    """Return how much of a held-out split is scored."""
    whole = len(data.splits[split])
    if not data.is_bounded(split):
        return f"all {whole:,} {data.unit}"
    blocks = data.by_source(split).values()
    rows = sum(len(part.corpus_units) for part in blocks)
    scored = f"{sum(map(len, blocks)):,} of {whole:,} {data.unit}"
    return f"{scored} ({rows:,} random rows, always the same)"


def _step(config: TrainConfig, data: ChatDataModule, batching: Batching) -> str:
    """Return how an optimizer step is cut, and how many tokens it has if that is known."""
    several, train = batching.num_devices > 1, data.splits["train"]
    is_packed = data.unit == "blocks"
    unit = data.unit if is_packed else "replies"
    text = (
        f"{config.batch_size} {unit} = {f'{batching.num_devices} x ' if several else ''}"
        f"{batching.num_micro_batches} x {batching.micro_batch_size} "
        f"({'devices, ' if several else ''}micro-batches, {unit})"
    )
    if not is_packed:
        return text
    return f"{text}, about {_tokens_per_step(train, batching):,} tokens{_short(train, batching)}"


def _tokens_per_step(train: Blocks, batching: Batching) -> int:
    return min(batching.batch_size, len(train)) * train.num_tokens // max(len(train), 1)


def _short(train: Blocks, batching: Batching) -> str:
    """Return how many blocks the last step of each epoch has, if it has fewer than the others."""
    rest = len(train) % batching.batch_size
    if len(train) < batching.batch_size:
        return f"; there are {len(train)} blocks, so that every step has all of them"
    return f"; the last of each epoch has {rest} blocks" if rest else ""


def _not_used(report: RowReport, most: int = 5) -> str:
    """Return what the rows hold and nobody reads: counts and first places."""
    parts = [
        f"{name} ({count:,} rows, first {report.first_unused[name]})"
        for name, count in report.unused.most_common(most)
    ]
    if more := len(report.unused) - len(parts):
        parts.append(f"{more:,} more")
    return ", ".join(parts)


def _sources(data: ChatDataModule) -> dict[str, str]:
    """Return a line for each of several sources: its rows in an epoch, and its shares."""
    found = data.shares()
    if len(found) < 2:
        return {}
    tokens = max(sum(share.tokens for share in found), 1)
    supervised = max(sum(share.supervised_tokens for share in found), 1)
    texts = [
        f"{s.label} x {s.weight:g}: {s.rows:,} rows, {s.tokens / tokens:.1%} of the tokens, "
        f"{s.supervised_tokens / supervised:.1%} of those taught"
        for s in found
    ]
    return {"sources": ("\n" + " " * 11).join(texts)}


def _unusual(config: TrainConfig) -> list[str]:
    """Return a line for each way in which training reads its blocks otherwise than by default."""
    data = config.data
    lines = {
        "data.isolate_documents=false: each example attends to all before it in its block": (
            not data.isolate_documents
        ),
        "data.reset_positions=false: positions run on from one example to the next": (
            not data.reset_positions
        ),
        f"data.prompt_loss_weight={data.prompt_loss_weight:g}: prompts are learned from, too": (
            bool(data.prompt_loss_weight)
        ),
    }
    found = [line for line, holds in lines.items() if holds]
    how = "in training alone: val and test are isolated, restarted, and of responses alone"
    return [*found, how] if found else []


def _adapters(step: TrainingStep) -> str:
    if step.lora_rank is None:
        return ""
    return f", frozen; {step.num_trainable:,} in adapters of rank {step.lora_rank} learn"


def _memory(plan: Plan) -> str:
    memory = plan.step.memory(plan.batching.micro_batch_size)
    total, state, activations = (x / GIB for x in (memory.total, memory.state, memory.activations))
    how = ", checkpointed" if plan.step.activation_checkpointing else ""
    free = " free" if plan.machine.device == "cpu" else ""
    return (
        f"about {total:.1f} GiB of {plan.machine.memory / GIB:.1f}{free}: {state:.1f} of weights "
        f"and optimizer, {activations:.1f} of activations{how}"
    )


def _cores(config: TrainConfig, machine: Machine) -> str:
    """Return how many cores there are, how many of them are free, and what the run takes."""
    free = "all" if machine.free_cores >= machine.cores else f"{machine.free_cores}"
    asked, workers = config.data.num_workers, usable_workers(config.data.num_workers)
    parts = [f"{machine.threads} thread" + ("s" if machine.threads > 1 else "")]
    if asked:
        parts.append(
            f"{workers} worker{'s' * (workers != 1)}"
            + (f" of {asked} asked for" if workers < asked else "")
        )
    each = " for each process" if machine.place.local_size > 1 else ""
    return f"{machine.cores}, {free} free now: {', '.join(parts)}{each}"


def _joined(data: ChatDataModule) -> str:
    if not data.joining:
        return ""
    return f"; those of train joined into {len(data.splits['train'].corpus):,} conversations"


def _dropped(data: ChatDataModule) -> str:
    dropped = dict(data.report.dropped)
    beyond, others = dropped.pop(OVER_MAX_ROWS, 0), dropped.pop(OTHER_PART, 0)
    parts = [f"{count:,} {reason}" for reason, count in dropped.items()]
    blocks = data.splits.values()
    if without_room := sum(split.num_without_room for split in blocks):
        parts.append(f"{without_room:,} no_room_for_response")
    text = f"; dropped {', '.join(parts)}" if parts else ""
    if beyond:
        text += f"; {beyond:,} beyond data.max_rows"
    if others:
        text += f"; {others:,} of other parts than data.part"
    if cut := sum(split.num_cut for split in blocks):
        text += f"; {cut:,} cut to fit"
    return text
