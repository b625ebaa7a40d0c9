"""Sample replies, written down as the model learns."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L

from src import phases
from src.data.tokenizer import Tokenizer
from src.model.generation_config import GenerationConfig
from src.model.gpt2 import GPT2
from src.progress import Progress
from src.talk.assistant import Assistant
from src.training.module import TrainingModule
from src.training.shown import boards

NUM_STEPS = 4  # whose replies stand side by side: the first, and the last few


class SampleReplies(L.Callback):
    """Answers the same questions at each validation; boards show them side by side.

    They are decoded together, for ``max_seconds`` in all; what is not said by then is left out.
    Where there is a reference, what it answers stands beside.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        tokenizer: Tokenizer,
        generation: GenerationConfig,
        max_seconds: float,
        load_reference: Callable[[], GPT2 | None] = lambda: None,
    ):
        self.prompts = list(prompts)
        self.tokenizer = tokenizer
        self.generation = generation.unpacked()
        self.max_seconds = max_seconds
        self.by_step: dict[int, list[str]] = {}
        self.load_reference = load_reference
        self.of_reference: list[str] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the replies that the next table shows again."""
        return {"prompts": self.prompts, "by_step": self.by_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the replies of the interrupted run, unless the questions are others."""
        if state_dict["prompts"] == self.prompts:
            self.by_step = state_dict["by_step"]

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Ask and write down."""
        assert isinstance(module, TrainingModule)
        self.ask(trainer, module)

    def ask(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Show the replies at the current step, beside those of earlier ones."""
        if not self.prompts or not boards(trainer):
            return
        model = module.plain_model()
        if not trainer.is_global_zero:
            return
        with phases.phase("replies"):
            self.by_step[trainer.global_step] = self._replies(model)
            if self.of_reference is None and (reference := self.load_reference()) is not None:
                reference = reference.to(model.wte.weight.device).eval()
                self.of_reference = self._replies(reference)
        first, *others = self.by_step
        self.by_step = {step: self.by_step[step] for step in [first, *others[1 - NUM_STEPS :]]}
        shown = {} if self.of_reference is None else {"reference": self.of_reference}
        shown |= {f"step {step:,}": texts for step, texts in self.by_step.items()}
        columns = ["prompt", *shown]
        rows = [
            [prompt, *(texts[number] or "(nothing)" for texts in shown.values())]
            for number, prompt in enumerate(self.prompts)
        ]
        for board in boards(trainer):
            board.log_table("sample_replies", columns, rows, step=trainer.global_step)

    def _replies(self, model: GPT2) -> list[str]:
        assistant = Assistant(model, self.tokenizer)
        with Progress(len(self.prompts), "answering", "sample prompts", delay=1) as progress:
            return assistant.replies(
                self.prompts,
                self.generation,
                max_seconds=self.max_seconds,
                progress=progress.add,
            )
