"""A page to talk to a model: ``python -m src.web``, then open the address that it says."""

import os
import sys
from dataclasses import dataclass
from typing import Annotated

from omegaconf import DictConfig

from src.address import PORT, bind, cannot_listen, host_in_url, url
from src.checks import above, at_least, check
from src.cli import RUNS, require, run_door, typed
from src.model.generation_config import GenerationConfig


@dataclass
class WebConfig:
    """The values of ``conf/web.yaml``; its comments say what each value means."""

    generation: GenerationConfig
    model_path: str | None
    compare_with: str | None
    device: str
    host: str
    port: Annotated[int, PORT]
    sample_prompts: list[str] | None
    max_prompt_characters: Annotated[int, at_least(1)]
    max_seconds: Annotated[float, above(0, "seconds")]
    max_queue: Annotated[int, at_least(1)]

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self)


def web(config: DictConfig, **text: str) -> None:
    """Serve the page until Ctrl-C."""
    settings = typed(WebConfig, config, **text)
    require("gradio", "web", "the page")
    with bind(settings.host, settings.port) as bound:
        port = bound.getsockname()[1]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio reads it

    from src.model.device import choose_device
    from src.page.page import Limits, Models, build_page, sample_prompts
    from src.talk.model_folder import model_folders, newest_model_folder

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
    try:
        page.launch(
            server_name=host_in_url(settings.host),
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            ssr_mode=False,
            max_file_size=1,  # bytes: nothing is uploaded here
        )
    except OSError as error:
        if error.errno is not None:
            raise
        reason = "it was taken while the model was loaded"  # gradio names no other
        raise cannot_listen(settings.host, port, reason) from error
    print(f"{first} answers at {url(settings.host, port)} (Ctrl-C: stop)")
    sys.stdout.flush()
    page.block_thread()


if __name__ == "__main__":
    run_door(web, "web", free_text=("model_path", "compare_with"))
