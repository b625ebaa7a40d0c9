"""Answer programs: ``python -m src.serve``, an API that OpenAI's clients speak."""

import gc
import json
import logging
import shlex
import signal
import sys
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig

from src.address import bind, url
from src.command.cli import RUNS, require, run_door, typed
from src.free_memory import memory_for
from src.serving.config import ServeConfig
from src.streams import say

EXTRA = ("fastapi", "pydantic", "starlette", "uvicorn")
FREE_TEXT = ("model_path", "api_key")
LISTS = ("allow_origins", "allowed_hosts")  # null: none, and as the config says


def serve(config: DictConfig, **text: str) -> None:
    """Serve until Ctrl-C (exit code 130) or SIGTERM, a server's ordinary end (0)."""
    changes: dict[str, Any] = {
        key: None if value == "null" else _list(value) if key in LISTS else value
        for key, value in text.items()
    }
    settings = replace(typed(ServeConfig, config), **changes)  # checks them all
    for module in EXTRA:
        require(module, "web", "the server")

    from src.model.decoder import Decoder
    from src.model.device import choose_device
    from src.serving.app import create_app
    from src.serving.engine import Engine
    from src.serving.server import make_server
    from src.shared_cores import shared_cores
    from src.talk.assistant import load_assistant
    from src.talk.model_folder import newest_model_folder

    logging.getLogger("src.serving").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _end)
    listener = bind(settings.host, settings.port)
    folder = settings.model_path or str(newest_model_folder(RUNS))
    assistant = load_assistant(folder, choose_device(settings.device))

    def decoder() -> Decoder:
        what = f"the server made room for num_slots={settings.num_slots}"
        with memory_for(what, "lower num_slots, or take a smaller model"):
            return Decoder(assistant.model, settings.num_slots, settings.generation.weights)

    def ready() -> None:
        say(_welcome(settings, folder, listener.getsockname()[1]), sys.stderr)

    with (
        shared_cores(settings.threads, assistant.model.wte.weight.device.type),
        Engine(decoder, assistant.end_ids, settings.max_queue) as engine,
    ):
        app = create_app(assistant, engine, settings)
        server = make_server(app, engine, settings, ready)
        # Python's collector looks through everything at times, and nobody is answered meanwhile:
        # not through the libraries and the model, which stay.
        gc.collect()
        gc.freeze()
        server.run(sockets=[listener])


def _list(text: str) -> list[str]:
    """Return the values of ``a,b`` or ``[a,b]``."""
    values = (value.strip(" '\"") for value in text.strip("[] ").split(","))
    return [value for value in values if value]


def _welcome(settings: ServeConfig, folder: str, port: int) -> str:
    api = url(settings.host, port) + "/v1"
    message = {"role": "user", "content": "Who are you?"}
    body = json.dumps({"model": settings.model_name, "messages": [message]})
    key = "" if settings.api_key is None else "-H 'Authorization: Bearer <the key>' "
    return (
        f"{folder} answers at {api} as model {settings.model_name}; Ctrl-C stops it. For example:\n"
        f"curl {api}/chat/completions -H 'Content-Type: application/json' "
        f"{key}-d {shlex.quote(body)}"
    )


def _end(*_: object) -> None:
    sys.exit(0)


if __name__ == "__main__":
    run_door(serve, "serve", free_text=(*FREE_TEXT, *LISTS))
