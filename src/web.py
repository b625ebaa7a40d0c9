"""A page to talk to a model: ``python -m src.web``, then open the address that it says."""

import importlib.util
import os
import socket
import sys
from dataclasses import dataclass

from omegaconf import DictConfig

from src.cli import RUNS, run_door, typed
from src.errors import UserError
from src.model.generation import GenerationConfig


@dataclass
class WebConfig:
    """The values of ``conf/web.yaml``; its comments say what each value means."""

    generation: GenerationConfig
    model_path: str | None
    compare_with: str | None
    device: str
    host: str
    port: int
    sample_prompts: list[str] | None
    max_prompt_characters: int
    max_seconds: float
    max_queue: int

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        if not 0 < self.port < 2**16:
            raise UserError(f"port={self.port}: must be in [1, 65535]")
        for key in ("max_prompt_characters", "max_seconds", "max_queue"):
            if getattr(self, key) <= 0:
                raise UserError(f"{key}={getattr(self, key)}: must be above 0")


def web(config: DictConfig, **text: str) -> None:
    """Serve the page until Ctrl-C."""
    settings = typed(WebConfig, config, **text)
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs gradio: pip install 'gpt2-chat[web]'")
    check_address(settings.host, settings.port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio reads it

    from src.model.device import choose_device
    from src.talk.model_folder import model_folders, newest_model_folder
    from src.talk.page import Limits, Models, build_page, sample_prompts

    first = settings.model_path or str(newest_model_folder(RUNS))
    found = [str(folder) for folder in model_folders(RUNS)]
    beside = [settings.compare_with] if settings.compare_with else []
    names = list(dict.fromkeys([first, *beside, *found]))
    models = Models(choose_device(settings.device))
    for name in [first, *beside]:  # a mistake is said here, not on the page
        models.get(name)
    prompts = settings.sample_prompts
    page = build_page(
        models,
        names,
        sample_prompts(first) if prompts is None else prompts,
        settings.generation,
        Limits(settings.max_prompt_characters, settings.max_seconds, settings.max_queue),
    )
    page.launch(
        server_name=settings.host,
        server_port=settings.port,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        ssr_mode=False,
    )
    print(f"{first} answers at http://{settings.host}:{settings.port} (Ctrl-C: stop)")
    sys.stdout.flush()
    page.block_thread()


def check_address(host: str, port: int) -> None:
    """Raise UserError if nothing can listen there."""
    try:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        raise UserError(
            f"host={host} port={port}: {error.strerror}; choose another with port="
        ) from error


if __name__ == "__main__":
    run_door(web, "web", free_text=("model_path", "compare_with"))
