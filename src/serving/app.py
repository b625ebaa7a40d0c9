"""The endpoints: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``, ``/health``."""

import random
import time
from dataclasses import replace

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from src.model.generation_config import INT64
from src.serving.answers import Answers
from src.serving.body import BoundedBody
from src.serving.config import ServeConfig
from src.serving.engine import Engine
from src.serving.errors import ApiError, handle_errors
from src.serving.prompts import answer_settings, chat_prompt, check_request, completion_prompts
from src.serving.requests import ChatRequest, CompletionRequest, GenerationRequest
from src.serving.responses import ChatShape, TextShape, Writer
from src.talk.assistant import Assistant


def create_app(assistant: Assistant, engine: Engine, settings: ServeConfig) -> FastAPI:
    """Return the application; ``engine`` decodes with the model of ``assistant``."""
    # Without FastAPI's pages: they load scripts from other servers.
    app = FastAPI(title="gpt2-chat", docs_url=None, redoc_url=None)
    app.add_middleware(
        BoundedBody, max_bytes=settings.max_body_bytes, seconds=settings.receive_seconds
    )
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
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        check_request(body, 1, settings)
        prompts = await run_in_threadpool(chat_prompt, body, assistant, settings.max_text_bytes)
        return await answering.answer(body, request, prompts, ChatShape())

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        check_request(body, len(body.prompt), settings)
        prompts = await run_in_threadpool(
            completion_prompts, body, assistant, settings.max_text_bytes
        )
        return await answering.answer(body, request, prompts, TextShape())

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
    """Turns the prompts of a request into its response."""

    def __init__(self, assistant: Assistant, engine: Engine, settings: ServeConfig):
        self.assistant, self.engine, self.settings = assistant, engine, settings
        self.seeds = random.Random(settings.generation.seed)  # for requests without a seed

    async def answer(
        self,
        body: GenerationRequest,
        request: Request,
        prompts: list[list[int]],
        shape: ChatShape | TextShape,
    ) -> Response:
        """Return ``n`` answers to each prompt, at once or as a stream."""
        positions = self.assistant.model.config.n_positions
        num_answers = body.n or 1
        copies, generations = [], []
        for prompt in prompts:
            config = answer_settings(body, self.settings.generation, len(prompt), positions)
            if body.seed is None:
                config.seed = self.seeds.randrange(INT64)
            copies += [prompt] * num_answers
            seed = config.seed
            generations += [replace(config, seed=(seed + i) % INT64) for i in range(num_answers)]
        answers = Answers(
            self.engine,
            self.assistant.tokenizer,
            copies,
            generations,
            strip=isinstance(shape, ChatShape),
            max_seconds=self.settings.max_seconds,
        )
        writer = Writer(shape, self.settings.model_name, sum(map(len, prompts)), answers)
        if body.stream:
            return writer.stream(body.wants_usage)
        return await writer.respond(request)
