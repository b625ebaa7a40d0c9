"""The page: a conversation with one model, and one question to two models side by side.

Gradio brings the widgets, the streaming and the queue.
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
Texts = Sequence[str]
Widgets = list[gr.components.Component]
MAX_HISTORY = 4  # longest questions: the conversation is cut to as many characters


@dataclass(frozen=True)
class Limits:
    """How long a question may be and an answer may take, and how many questions may wait."""

    prompt_characters: int
    seconds: float
    queue: int


class Models:
    """Loads a model at its first question; keeps the two that were used last."""

    CAPACITY = 2

    def __init__(self, device: torch.device):
        self.device = device
        self.assistants: OrderedDict[str, Assistant] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, name: str) -> Assistant:
        """Return the assistant of a model folder or hub name.

        Raises:
            UserError: it cannot be loaded.
        """
        with self.lock:
            if name not in self.assistants:
                while len(self.assistants) >= self.CAPACITY:
                    self.assistants.popitem(last=False)
                self.assistants[name] = load_assistant(name, self.device)
            self.assistants.move_to_end(name)
            return self.assistants[name]


def sample_prompts(model_path: str) -> list[str]:
    """Return the questions of the model's run, which it asked in training; none without a run."""
    record = Path(model_path).expanduser().parent / RUN_RECORD
    if not record.exists():
        return []
    try:
        prompts = json.loads(record.read_text(encoding="utf-8"))["settings"]["sample_prompts"]
        if not (isinstance(prompts, list) and all(isinstance(each, str) for each in prompts)):
            raise TypeError("sample_prompts is no list of texts")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        note(f"no questions to start with: {record} is no record of a run: {error!r}")
        return []
    return prompts


def build_page(
    models: Models,
    names: Texts,
    prompts: Texts,
    generation: GenerationConfig,
    limits: Limits,
) -> gr.Blocks:
    """Return the page, not yet served.

    A person can choose one of ``names``, ask one of ``prompts`` and change ``generation``.
    """
    handlers = Handlers(models, names, generation, limits)
    with gr.Blocks(title="gpt2-chat", analytics_enabled=False, fill_height=True) as page:
        with gr.Sidebar(label="settings", open=False, position="right"):
            settings = _settings(generation)
        with gr.Tab("Chat"):
            _chat(handlers, names, prompts, settings)
        with gr.Tab("Compare"):
            _compare(handlers, names, prompts, settings)
    return page.queue(max_size=limits.queue, default_concurrency_limit=1, api_open=False)


def _settings(generation: GenerationConfig) -> Widgets:
    """Return the widgets, in the order that ``Handlers.generation_of`` expects."""

    def widget(name: str, slider: Slider) -> gr.Slider:
        value = NUMBERS[name].to_number(getattr(generation, name))
        assert value is not None, f"{name} has a slider and no number for null"
        ends = min(slider.least, value), max(slider.most, value)  # Gradio refuses values beyond
        return gr.Slider(*ends, value, step=slider.step, label=name, info=slider.info)

    seed = gr.Number(None, label="seed", info="empty: another each time", precision=0, minimum=0)
    return [*(widget(name, slider) for name, slider in SLIDERS.items()), seed]


def _model_choice(names: Texts, index: int, label: str) -> gr.Dropdown:
    return gr.Dropdown(list(names), value=names[min(index, len(names) - 1)], label=label)


def _chat(handlers: "Handlers", names: Texts, prompts: Texts, settings: Widgets) -> None:
    model = _model_choice(names, 0, "model")
    status = gr.Markdown(elem_id="status", render=False)
    gr.ChatInterface(
        handlers.converse,
        chatbot=gr.Chatbot(
            render_markdown=False,  # an answer is plain text
            show_label=False,
            buttons=["copy"],
            height="60vh",
            placeholder="Ask something, or start with one of these.",
        ),
        examples=[[prompt] + [None] * (1 + len(settings)) for prompt in prompts],
        textbox=gr.Textbox(
            placeholder="Ask something",
            elem_id="ask",
            max_length=handlers.limits.prompt_characters,
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


def _compare(handlers: "Handlers", names: Texts, prompts: Texts, settings: Widgets) -> None:
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
        max_length=handlers.limits.prompt_characters,
        show_label=False,
        elem_id="question",
    )
    with gr.Row():
        ask = gr.Button("Ask both", variant="primary")
        stop = gr.Button("Stop", variant="stop")
        clear = gr.ClearButton([question, *answers, status])
    if prompts:
        gr.Examples([[prompt] for prompt in prompts], question, label="questions to start with")
    comparison = gr.on(
        [ask.click, question.submit],
        handlers.compare,
        [question, left, right, *settings],
        [*answers, status],
        concurrency_limit=1,
        api_visibility="private",
    )
    for button in (stop, clear):
        button.click(None, cancels=[comparison], api_visibility="private")


class Handlers:
    """What the page's buttons do; the page shows a mistake in one line."""

    def __init__(self, models: Models, names: Texts, generation: GenerationConfig, limits: Limits):
        self.models = models
        self.names = set(names)
        self.generation = generation
        self.limits = limits
        self.random = SystemRandom()

    def converse(
        self, question: str, history: list[dict[str, Any]], model: str, *settings: Any
    ) -> Iterator[tuple[str, str]]:
        """Yield the answer so far and a line about it."""
        with errors_on_page():
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
        with errors_on_page():
            generation = self.generation_of(settings)
            messages = [Message("user", question)]
            replies = [self.start(name, messages, generation) for name in (left, right)]
            streams = [self.pieces(reply) for reply in replies]
            while streams:
                streams = [stream for stream in streams if next(stream, None) is not None]
                yield *(reply.text for reply in replies), ""
            yield *(reply.text for reply in replies), " | ".join(map(_status, replies))

    def start(self, model: str, messages: Sequence[Message], generation: GenerationConfig) -> Reply:
        """Return the reply of a model to a conversation.

        Raises:
            UserError: the model is none of the choices, or the conversation is too long.
        """
        if model not in self.names:
            raise UserError(f"there is no model {model} here")
        limit = self.limits.prompt_characters
        if len(messages[-1].content) > limit:
            raise UserError(f"the message is longer than {limit:,} characters: shorten it")
        newest = newest_turns(messages, MAX_HISTORY * limit)
        reply = self.models.get(model).reply(newest, generation, self.limits.seconds)
        reply.num_dropped_turns += (len(messages) - len(newest)) // 2
        return reply

    def pieces(self, reply: Reply) -> Iterator[str]:
        """Yield the reply's pieces; close the reply when nobody reads on."""
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
def errors_on_page() -> Iterator[None]:
    """Show a person's mistake as a message on the page."""
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
