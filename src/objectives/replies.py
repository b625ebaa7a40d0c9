"""Sample replies, written down as the model learns."""

from collections.abc import Sequence

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from src import phases
from src.data.tokenizer import Tokenizer
from src.model.generation_config import GenerationConfig
from src.model.gpt2 import GPT2
from src.progress import Progress
from src.talk.assistant import Assistant
from src.training.module import TrainingModule


class SampleReplies(L.Callback):
    """Answers the same questions at each validation; TensorBoard shows them as text.

    They are decoded together, for ``max_seconds`` in all; what is not said by then is left out.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        tokenizer: Tokenizer,
        generation: GenerationConfig,
        max_seconds: float,
    ):
        self.prompts = list(prompts)
        self.tokenizer = tokenizer
        self.generation = generation
        self.max_seconds = max_seconds

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Ask and write down."""
        assert isinstance(module, TrainingModule)
        self.ask(trainer, module)

    def ask(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Write the replies to the logger at the current step."""
        if not self.prompts or not isinstance(trainer.logger, TensorBoardLogger):
            return
        model = module.plain_model()
        if not trainer.is_global_zero:
            return
        with phases.phase("replies"):
            replies = self._replies(model)
        text = "\n\n".join(
            f"**{prompt}**\n\n{_quoted(reply)}"
            for prompt, reply in zip(self.prompts, replies, strict=True)
        )
        trainer.logger.experiment.add_text("sample_replies", text, trainer.global_step)

    def _replies(self, model: GPT2) -> list[str]:
        assistant = Assistant(model, self.tokenizer)
        with Progress(len(self.prompts), "answering", "sample prompts", delay=1) as progress:
            return assistant.replies(
                self.prompts,
                self.generation,
                max_seconds=self.max_seconds,
                progress=progress.add,
            )


def _quoted(reply: str) -> str:
    return "\n".join(f"> {line}" for line in reply.splitlines() or ["(nothing)"])
