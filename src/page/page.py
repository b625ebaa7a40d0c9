"""The page: a conversation with one model, and one question to two models side by side.

Built on Gradio, which brings the widgets, the streaming and the queue.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from typing import Any

import gradio as gr
import torch

from src.errors import UserError
from src.model.generation_config import KINDS, NUMBERS, GenerationConfig, Slider
from src.page.history import complete_turns, newest_turns
from src.talk.assistant import Assistant, Reply, load_assistant
from src.talk.messages import Message
from src.talk.screen import note

RUN_RECORD = "run.json"  # beside a run's model folder
SLIDERS = {name: setting.slider for name, setting in NUMBERS.items() if setting.slider}
CONVERSATION = 4  # times a question's most characters: what is read of a browser's history


@dataclass(frozen=True)
class Limits:
    """What one person may ask of the machine."""

    prompt_characters: int
    seconds: float
    queue: int


class Models:
    """Loads models when they are first asked; keeps the two that were asked last."""

    KEPT = 2

    def __init__(self, device: torch.device):
        self.device = device
        self.loaded: OrderedDict[str, Assistant] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, name: str) -> Assistant:
        """Return the assistant of a model folder or hub name.

        Raises:
            UserError: it cannot be loaded.
        """
        with self.lock:
            if name not in self.loaded:
                while len(self.loaded) >= self.KEPT:
                    self.loaded.popitem(last=False)
                self.loaded[name] = load_assistant(name, self.device)
            self.loaded.move_to_end(name)
            return self.loaded[name]


def sample_prompts(model_path: str) -> list[str]:
    """Return the questions that the model's run asked while it trained; none if it has no run."""
    record = Path(model_path).expanduser().parent / RUN_RECORD
    if not record.exists():
        return []
    try:
        prompts = json.loads(record.read_text())["settings"]["sample_prompts"]
        if not (isinstance(prompts, list) and all(isinstance(each, str) for each in prompts)):
            raise TypeError("sample_prompts is no list of texts")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        note(f"no questions to start with: {record} is no record of a run: {error!r}")
        return []
    return prompts


def build_page(
    models: Models,
    names: Sequence[str],
    prompts: Sequence[str],
    generation: GenerationConfig,
    limits: Limits,
) -> gr.Blocks:
    """Return the page, not yet served.

    Args:
        models: what answers.
        names: the models that can be chosen; the first answers in the conversation.
        prompts: questions to start with.
        generation: what the settings start with.
        limits: of one question.
    """
    answering = Answering(models, names, generation, limits)
    with gr.Blocks(title="gpt2-chat", analytics_enabled=False, fill_height=True) as page:
        with gr.Sidebar(label="settings", open=False, position="right"):
            settings = _settings(generation)
        with gr.Tab("Chat"):
            _chat(answering, names, prompts, settings)
        with gr.Tab("Compare"):
            _compare(answering, names, prompts, settings)
    return page.queue(max_size=limits.queue, default_concurrency_limit=1, api_open=False)


def _settings(generation: GenerationConfig) -> list[gr.components.Component]:
    """The order is that of ``Answering.generation_of``."""

    def slider(name: str, shown: Slider) -> gr.Slider:
        value = NUMBERS[name].to_number(getattr(generation, name))
        assert value is not None, f"{name} has a slider and no number for null"
        ends = min(shown.least, value), max(shown.most, value)  # Gradio refuses a value beyond them
        return gr.Slider(*ends, value, step=shown.step, label=name, info=shown.info)

    seed = gr.Number(None, label="seed", info="empty: another each time", precision=0, minimum=0)
    return [*(slider(name, shown) for name, shown in SLIDERS.items()), seed]


def _model_choice(names: Sequence[str], chosen: int, label: str) -> gr.Dropdown:
    return gr.Dropdown(list(names), value=names[min(chosen, len(names) - 1)], label=label)


def _chat(
    answering: "Answering",
    names: Sequence[str],
    prompts: Sequence[str],
    settings: list[gr.components.Component],
) -> None:
    model = _model_choice(names, 0, "model")
    status = gr.Markdown(elem_id="status", render=False)
    gr.ChatInterface(
        answering.converse,
        chatbot=gr.Chatbot(
            render_markdown=False,  # what a model says is text
            show_label=False,
            buttons=["copy"],
            height="60vh",
            placeholder="Ask something, or start with one of these.",
        ),
        examples=[[prompt] + [None] * (1 + len(settings)) for prompt in prompts],
        textbox=gr.Textbox(
            placeholder="Ask something",
            elem_id="ask",
            max_length=answering.limits.prompt_characters,
            show_label=False,
            submit_btn=True,
            stop_btn=True,
        ),
        additional_inputs=[model, *settings],
        additional_outputs=[status],
        concurrency_limit=1,
        analytics_enabled=False,
        api_visibility="private",
    )
    status.render()


def _compare(
    answering: "Answering",
    names: Sequence[str],
    prompts: Sequence[str],
    settings: list[gr.components.Component],
) -> None:
    with gr.Row():
        left, right = _model_choice(names, 0, "left"), _model_choice(names, 1, "right")
    with gr.Row(equal_height=True):
        answers = [
            gr.Textbox(label="answer", lines=12, elem_id=f"answer-{side}", buttons=["copy"])
            for side in ("left", "right")
        ]
    status = gr.Markdown()
    question = gr.Textbox(
        placeholder="Ask both",
        max_length=answering.limits.prompt_characters,
        show_label=False,
        elem_id="question",
    )
    with gr.Row():
        ask = gr.Button("Ask both", variant="primary")
        stop = gr.Button("Stop", variant="stop")
        clear = gr.ClearButton([question, *answers, status])
    if prompts:
        gr.Examples([[prompt] for prompt in prompts], question, label="questions to start with")
    asked = gr.on(
        [ask.click, question.submit],
        answering.compare,
        [question, left, right, *settings],
        [*answers, status],
        concurrency_limit=1,
        api_visibility="private",
    )
    for button in (stop, clear):
        button.click(None, cancels=[asked], api_visibility="private")


class Answering:
    """What the page's buttons do; a mistake is shown on the page, in one line."""

    def __init__(
        self, models: Models, names: Sequence[str], generation: GenerationConfig, limits: Limits
    ):
        self.models = models
        self.names = set(names)
        self.generation = generation
        self.limits = limits
        self.random = SystemRandom()

    def converse(
        self, question: str, history: list[dict[str, Any]], model: str, *settings: Any
    ) -> Iterator[tuple[str, str]]:
        """Yield the answer so far and a line about it."""
        with shown_on_page():
            messages = [*complete_turns(history), Message("user", question)]
            reply = self.start(model, messages, self.generation_of(settings))
            if reply.num_dropped_turns:
                gr.Info(f"the {reply.num_dropped_turns} oldest turns had no room and are left out")
            for _ in self.pieces(reply):
                yield reply.text, ""
            yield reply.text, _status(reply)

    def compare(
        self, question: str, left: str, right: str, *settings: Any
    ) -> Iterator[tuple[str, ...]]:
        """Yield both answers so far, and a line about them; they take turns, piece by piece."""
        with shown_on_page():
            generation = self.generation_of(settings)
            asked = [Message("user", question)]
            replies = [self.start(name, asked, generation) for name in (left, right)]
            running = [self.pieces(reply) for reply in replies]
            while running:
                running = [pieces for pieces in running if next(pieces, None) is not None]
                yield *(reply.text for reply in replies), ""
            yield *(reply.text for reply in replies), " | ".join(map(_status, replies))

    def start(self, model: str, messages: Sequence[Message], generation: GenerationConfig) -> Reply:
        """Return the reply of a model to a conversation.

        Raises:
            UserError: the model is not one that can be chosen, or the conversation is too long.
        """
        if model not in self.names:
            raise UserError(f"there is no model {model} here")
        limit = self.limits.prompt_characters
        if len(messages[-1].content) > limit:
            raise UserError(f"the message is longer than {limit:,} characters: shorten it")
        newest = newest_turns(messages, CONVERSATION * limit)
        reply = self.models.get(model).reply(newest, generation, self.limits.seconds)
        reply.num_dropped_turns += (len(messages) - len(newest)) // 2
        return reply

    def pieces(self, reply: Reply) -> Iterator[str]:
        """Yield the reply's pieces; it is closed when nobody wants more of them."""
        try:
            yield from reply
        finally:  # stopped, or the person left
            reply.close()

    def generation_of(self, settings: Sequence[Any]) -> GenerationConfig:
        """Return the settings of the page as a config.

        Raises:
            UserError: one is out of range.
        """
        *numbers, seed = settings
        values: dict[str, Any] = {
            name: NUMBERS[name].from_number(KINDS[name](number))
            for name, number in zip(SLIDERS, numbers, strict=True)
        }
        values["seed"] = self.random.getrandbits(31) if seed is None else int(seed)
        return replace(self.generation, **values)


@contextmanager
def shown_on_page() -> Iterator[None]:
    """Turn a person's mistake into a message on the page."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), title="Sorry", print_exception=False) from error


def _status(reply: Reply) -> str:
    reasons = {
        "end": "it said all it had to say",
        "stop": "a stop string ended it",
        "length": "it reached its limit",
        "timeout": f"it took longer than {reply.max_seconds:g} seconds",
        "cancelled": "it was stopped",
    }
    why = reasons[reply.stop_reason] if reply.stop_reason else ""
    return f"{reply.num_new_tokens} tokens, {reply.tokens_per_second:,.0f} tokens/s; {why}"
