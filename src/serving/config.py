"""The values of ``conf/serve.yaml``."""

from dataclasses import dataclass

from src.address import check_port
from src.errors import UserError
from src.model.generation_config import GenerationConfig

COUNTS = (
    "num_slots",
    "max_queue",
    "max_answers",
    "max_text_kib",
    "max_connections",
)
SECONDS = ("max_seconds", "receive_seconds", "shutdown_seconds")
JSON_PER_TEXT = 8  # a byte of text is six of JSON at most (\u0041); the keys need the rest


@dataclass
class ServeConfig:
    """The file's comments say what each value means."""

    generation: GenerationConfig
    host: str
    port: int
    model_path: str | None
    model_name: str
    device: str
    num_slots: int
    max_queue: int
    max_answers: int
    max_text_kib: int
    max_seconds: float
    receive_seconds: float
    shutdown_seconds: float
    max_connections: int

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            UserError: names the key and what it may be.
        """
        check_port(self.port)
        if not self.model_name.strip():
            raise UserError("model_name is empty: clients need a name for the model")
        for key in COUNTS:
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)}: must be at least 1")
        for key in SECONDS:
            if not 0 < getattr(self, key) < float("inf"):
                raise UserError(f"{key}={getattr(self, key)}: must be above 0 seconds")

    @property
    def max_text_bytes(self) -> int:
        """The most bytes of text (UTF-8) in one request."""
        return self.max_text_kib * 1024

    @property
    def max_body_bytes(self) -> int:
        """The most bytes of a request's body, in JSON."""
        return JSON_PER_TEXT * self.max_text_bytes
