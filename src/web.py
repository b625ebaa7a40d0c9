"""A page to talk to a model: ``python -m src.web``, then open the address that it says."""

import signal
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from src.address import PORT, bind, cannot_listen, url
from src.checks import above, at_least, check, within
from src.command.cli import RUNS, Stopped, require, run_door, task_overrides, typed
from src.model.generation_config import GenerationConfig
from src.own_function import is_typed
from src.ranking.config import RankingConfig
from src.streams import say

EXTRA = ("pydantic", "starlette", "uvicorn")


@dataclass
class RankTabConfig(RankingConfig):
    """What ``rank`` in ``conf/web.yaml`` holds."""

    prefix: ClassVar[str] = "rank."


@dataclass
class WebConfig:
    """The values of ``conf/web.yaml``; its comments say what each value means."""

    generation: GenerationConfig
    model_path: str | None
    compare_with: str | None
    device: str
    threads: Annotated[int | str, within("[1, 1024]").or_auto()]
    host: str
    port: Annotated[int, PORT]
    sample_prompts: list[str] | None
    max_prompt_characters: Annotated[int, at_least(1)]
    max_seconds: Annotated[float, above(0, "seconds")]
    max_queue: Annotated[int, at_least(1)]
    data: Any  # what ``RowsConfig`` holds; reading it takes a while
    rank: RankTabConfig

    def __post_init__(self) -> None:
        """Check ranges; raise UserError naming the key."""
        check(self)


def web(config: DictConfig, **text: str) -> None:
    """Serve the page until Ctrl-C (exit code 130) or SIGTERM (143)."""
    settings = typed(WebConfig, config, **text)
    for module in EXTRA:
        require(module, "web", "the page")

    from src.model.device import choose_device
    from src.page.answers import Answers, Limits
    from src.page.labels import first_names, model_labels
    from src.page.models import Models
    from src.page.options import page_options, sample_prompts
    from src.page.ranking import Ranker, RowsConfig
    from src.page.server import PageServer
    from src.ranking.records import Records
    from src.shared_cores import shared_cores
    from src.talk.model_folder import model_folders, newest_model_folder

    output = settings.rank.key("output")
    if is_typed(output, task_overrides()):  # else it may not be meant: who chats needs no file
        Records(settings.rank.output_path, output)
    data = typed(RowsConfig, OmegaConf.masked_copy(config, "data")).data
    signal.signal(signal.SIGTERM, _stop)
    device = choose_device(settings.device)
    with (
        shared_cores(settings.threads, device.type),
        bind(settings.host, settings.port) as listener,
    ):
        try:
            listener.listen()  # now: nobody takes the port while the models are loaded
        except OSError as error:
            raise cannot_listen(settings.host, settings.port, str(error.strerror)) from error
        address, port = listener.getsockname()[:2]
        model_path = settings.model_path or str(newest_model_folder(RUNS))
        chosen = [model_path, settings.compare_with] if settings.compare_with else [model_path]
        models = Models(device)
        for name in chosen:  # a mistake ends the command and does not wait for the first question
            models.get(name)
        names = first_names([*chosen, *map(str, model_folders(RUNS))])
        labels = model_labels(list(dict.fromkeys(names.values())))
        limits = Limits(settings.max_prompt_characters, settings.max_seconds, settings.max_queue)
        prompts = settings.sample_prompts
        if prompts is None:
            prompts = sample_prompts(model_path)
        server = PageServer(
            Answers(models, labels, settings.generation, limits),
            Ranker(settings.rank, data, model_path, partial(models.get, model_path)),
            page_options(labels, [names[name] for name in chosen], prompts, settings.generation),
            settings.host if ip_address(address).is_loopback else None,
        )
        say(f"{model_path} answers at {url(settings.host, port)} (Ctrl-C: stop)")
        server.run(sockets=[listener])


def _stop(number: int, _: object) -> None:
    raise Stopped(number)


if __name__ == "__main__":
    run_door(web, "web", free_text=("model_path", "compare_with"))
