"""The values of ``conf/serve.yaml``."""

from dataclasses import dataclass
from typing import Annotated

from src.address import PORT
from src.checks import above, at_least, check
from src.errors import UserError
from src.model.generation import GenerationConfig

JSON_PER_TEXT = 8  # a byte of text is at most six of JSON (\u0041); the rest is for the keys


@dataclass
class ServeConfig:
    """What ``conf/serve.yaml`` holds; its comments say what each value means."""

    generation: GenerationConfig
    host: str
    port: Annotated[int, PORT]
    model_path: str | None
    model_name: str
    device: str
    num_slots: Annotated[int, at_least(1)]
    max_queue: Annotated[int, at_least(1)]
    max_answers: Annotated[int, at_least(1)]
    max_text_kib: Annotated[int, at_least(1)]
    max_seconds: Annotated[float, above(0, "seconds")]
    receive_seconds: Annotated[float, above(0, "seconds")]
    shutdown_seconds: Annotated[float, above(0, "seconds")]
    max_connections: Annotated[int, at_least(1)]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self)
        if not self.model_name.strip():
            raise UserError("model_name is empty: clients need a name for the model")

    @property
    def max_text_bytes(self) -> int:
        """The most bytes of text (UTF-8) in one request."""
        return self.max_text_kib * 1024

    @property
    def max_body_bytes(self) -> int:
        """The most bytes of a request's body, as it arrives."""
        return JSON_PER_TEXT * self.max_text_bytes
