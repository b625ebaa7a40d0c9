"""The values of ``conf/serve.yaml``."""

import re
from dataclasses import dataclass
from typing import Annotated

from src.address import PORT
from src.checks import above, at_least, check, within
from src.errors import UserError
from src.model.generation_config import GenerationConfig

KEY = re.compile(r"[!-~]+")
ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s*]+")
HOST = re.compile(r"\*|(\*\.)?[\w-]+(\.[\w-]+)*\.?|\[?[0-9a-fA-F:.]+\]?")
JSON_PER_TEXT = 8  # a byte of text is six of JSON at most (\u0041); the keys need the rest


@dataclass
class ServeConfig:
    """The file's comments say what each value means."""

    generation: GenerationConfig
    host: str
    port: Annotated[int, PORT]
    model_path: str | None
    model_name: str
    device: str
    threads: Annotated[int | str, within("[1, 1024]").or_auto()]
    api_key: str | None
    allow_origins: list[str] | None
    allowed_hosts: list[str] | None
    parse_special: bool
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
        if self.api_key is not None and not KEY.fullmatch(self.api_key):
            raise UserError(
                "api_key must be of visible ASCII characters, one at least; null is no key"
            )
        for origin in self.allow_origins or ():
            if not ORIGIN.fullmatch(origin):
                raise UserError(
                    f"allow_origins={origin}: an origin is like http://localhost:3000, without a "
                    f"path; * is every one"
                )
        for host in self.allowed_hosts or ():
            if not HOST.fullmatch(host):
                raise UserError(
                    f"allowed_hosts={host}: must be a name or an address without a port, "
                    f"*.example.com for all below it, or * for any"
                )

    @property
    def max_text_bytes(self) -> int:
        """The most bytes of text (UTF-8) in one request."""
        return self.max_text_kib * 1024

    @property
    def max_body_bytes(self) -> int:
        """The most bytes of a request's body, in JSON."""
        return JSON_PER_TEXT * self.max_text_bytes
