"""The endpoints: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``, ``/health``."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from src.model.generation_config import INT64, GenerationConfig
from src.serving.access import Access
from src.serving.answers import Answers
from src.serving.body import BoundedBody, parse
from src.serving.config import ServeConfig
from src.serving.engine import Engine
from src.serving.errors import ApiError, handle_errors
from src.serving.fields import IgnoredFields
from src.serving.prompts import (
    RANDOM,
    Prompts,
    answer_settings,
    chat_prompt,
    check_request,
    completion_prompts,
)
from src.serving.request_log import Record, RequestLog
from src.serving.requests import ChatRequest, CompletionRequest, GenerationRequest
from src.serving.responses import ChatShape, TextShape, Writer
from src.talk.assistant import Assistant

Read = Callable[[Request, bytes], tuple[GenerationRequest, Prompts]]

log = logging.getLogger(__name__)


def create_app(assistant: Assistant, engine: Engine, settings: ServeConfig) -> FastAPI:
    """Return the application; ``engine`` decodes with the model of ``assistant``."""
    # Without FastAPI's pages: they load scripts from other servers.
    app = FastAPI(title="gpt2-chat", docs_url=None, redoc_url=None, openapi_url=None)
    # The last that is added sees a request first.
    app.add_middleware(Access, settings=settings)
    app.add_middleware(
        BoundedBody, max_bytes=settings.max_body_bytes, seconds=settings.receive_seconds
    )
    if settings.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(RequestLog)
    handle_errors(app)
    answering = Answering(assistant, engine, settings)
    card = {
        "id": settings.model_name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "gpt2-chat",
        "max_model_len": assistant.model.config.n_positions,
    }

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await answering.answer(request, answering.read_chat, ChatShape())

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answering.answer(request, answering.read_completion, TextShape())

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, object]:
        if name != settings.model_name:
            message = f"there is no model {name!r}; there is {settings.model_name}"
            raise ApiError(message, "model", "model_not_found", 404)
        return card

    @app.get("/health")
    async def health() -> JSONResponse:
        """Return how many answers are computed and how many wait; 503 if the engine stopped."""
        status = "ok" if engine.is_alive else "stopped"
        counts = {"running": engine.num_running, "waiting": engine.num_waiting}
        return JSONResponse({"status": status, **counts}, 200 if engine.is_alive else 503)

    return app


class Answering:
    """Turns a request into its response."""

    def __init__(self, assistant: Assistant, engine: Engine, settings: ServeConfig):
        self.assistant, self.engine, self.settings = assistant, engine, settings
        self.seeds = random.Random(settings.generation.seed)  # for requests without a seed
        self.ignored = IgnoredFields(log)
        self.reader = ThreadPoolExecutor(1, "requests")

    def read_chat(self, request: Request, body: bytes) -> tuple[GenerationRequest, Prompts]:
        """Return a chat's fields and its prompt; raises ApiError."""
        fields = parse(body, request.headers, ChatRequest)
        self._note(fields)
        check_request(fields, 1, self.settings)
        prompts = chat_prompt(fields, self.assistant, self.settings)
        self.ignored.note(dict.fromkeys(prompts.unused, True))
        return fields, prompts

    def read_completion(self, request: Request, body: bytes) -> tuple[GenerationRequest, Prompts]:
        """Return a completion's fields and its prompts; raises ApiError."""
        fields = parse(body, request.headers, CompletionRequest)
        self._note(fields)
        check_request(fields, len(fields.prompt), self.settings)
        return fields, completion_prompts(fields, self.assistant, self.settings)

    async def answer(
        self,
        request: Request,
        read: Read,
        shape: ChatShape | TextShape,
    ) -> Response:
        """Return ``n`` answers to each prompt, at once or as a stream; raises ApiError."""
        body = await request.body()
        loop = asyncio.get_running_loop()
        fields, prompts = await loop.run_in_executor(self.reader, _in_turns, read, request, body)
        copies, generations = self._copies(fields, prompts)
        record: Record = request.state.record
        record.num_prompt_tokens = sum(map(len, prompts.ids))
        record.num_dropped_turns = prompts.num_dropped_turns
        answers = Answers(
            self.engine,
            self.assistant.tokenizer,
            copies,
            generations,
            prompts.strip,
            self.settings.max_seconds,
            bool(fields.ignore_eos),
        )
        writer = Writer(shape, self.settings.model_name, record, answers)
        if fields.stream:
            return writer.stream(fields.wants_usage)
        return await writer.respond(request)

    def _note(self, fields: GenerationRequest) -> None:
        self.ignored.note(fields.model_extra or {})
        if fields.stream_options:
            self.ignored.note(fields.stream_options.model_extra or {}, "stream_options.")

    def _copies(
        self, fields: GenerationRequest, prompts: Prompts
    ) -> tuple[list[list[int]], list[GenerationConfig]]:
        """Return prompt and settings of each answer, the ``n`` to a prompt with different seeds."""
        positions = self.assistant.model.config.n_positions
        num_answers = fields.n or 1
        copies, generations = [], []
        for prompt in prompts.ids:
            config = answer_settings(fields, self.settings.generation, len(prompt), positions)
            if fields.seed in (None, RANDOM):
                config.seed = self.seeds.randrange(INT64)
            copies += [prompt] * num_answers
            seed = config.seed
            generations += [replace(config, seed=(seed + i) % INT64) for i in range(num_answers)]
        return copies, generations


def _in_turns(read: Read, request: Request, body: bytes) -> tuple[GenerationRequest, Prompts]:
    """Call ``read``, then leave the interpreter to the others for as long as it took.

    A large body takes milliseconds in which no other thread runs. Twenty of them, one after the
    other without a pause, would hold up every stream.
    """
    start = time.perf_counter()
    try:
        return read(request, body)
    finally:
        time.sleep(time.perf_counter() - start)
