"""Someone to talk to: a prompt in, a reply out, whole or as it comes."""

from collections.abc import Iterable, Iterator, Sequence

from src.data.template import encode_prompt
from src.data.tokenizer import REPLACEMENT, Tokenizer
from src.errors import UserError
from src.model.generation import GenerationConfig, generate
from src.model.gpt2 import GPT2


class Assistant:
    """A model with its tokenizer, spoken to through the chat template."""

    def __init__(self, model: GPT2, tokenizer: Tokenizer):
        self.model = model
        self.tokenizer = tokenizer

    def stream(
        self,
        prompt: str,
        generation: GenerationConfig,
        history: Sequence[tuple[str, str]] = (),
    ) -> Iterator[str]:
        """Yield the reply to ``prompt`` piece by piece; never half a character.

        Args:
            prompt: any text.
            generation: how to decode.
            history: earlier pairs of prompt and reply.

        Raises:
            UserError: the prompt is empty, no valid text, or too long for the model.
        """
        ids = self._encode(prompt, history)
        steps = generate(self.model, [ids], self.tokenizer.end_id, generation)
        yield from self._pieces(token for (token,) in steps if token is not None)

    def replies(
        self, prompts: Sequence[str], generation: GenerationConfig, batch_size: int = 64
    ) -> list[str]:
        """Return the reply to each prompt, decoded in batches of like length."""
        encoded = [self._encode(prompt) for prompt in prompts]
        by_length = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
        replies = [""] * len(prompts)
        for start in range(0, len(prompts), batch_size):
            rows = by_length[start : start + batch_size]
            tokens: list[list[int]] = [[] for _ in rows]
            batch = [encoded[i] for i in rows]
            for step in generate(self.model, batch, self.tokenizer.end_id, generation):
                for row, token in enumerate(step):
                    if token is not None:
                        tokens[row].append(token)
            for row, reply in zip(rows, tokens, strict=True):
                replies[row] = "".join(self._pieces(reply))
        return replies

    def can_read(self, prompt: str) -> bool:
        """Whether ``prompt`` leaves the model at least one position for a reply."""
        return len(self._encode(prompt)) < self.model.config.n_positions

    def _encode(self, prompt: str, history: Sequence[tuple[str, str]] = ()) -> list[int]:
        if not prompt.strip():
            raise UserError("the prompt is empty: write a question")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the prompt is not valid Unicode: character {error.start} is half a surrogate pair"
            ) from error
        return encode_prompt(self.tokenizer, prompt, history)

    def _pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        """Decode tokens as they come, holding back bytes until they make whole characters."""
        pending: list[int] = []
        begun = False
        for token in tokens:
            pending.append(token)
            text = self.tokenizer.decode(pending)
            if text.endswith(REPLACEMENT):
                continue
            pending.clear()
            text = text if begun else text.lstrip()  # the template's space before a reply
            begun = begun or bool(text)
            if text:
                yield text
        if pending:
            yield self.tokenizer.decode(pending)
