"""The endpoints: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``, ``/health``."""

import random
import time

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from src.model.generation_config import INT64
from src.serving.answers import Answers
from src.serving.body import BoundedBody
from src.serving.config import ServeConfig
from src.serving.engine import Engine
from src.serving.errors import ApiError, handle_errors
from src.serving.prompts import (
    answer_settings,
    chat_prompt,
    check_request,
    completion_prompts,
    with_seeds,
)
from src.serving.requests import ChatRequest, CompletionRequest, GenerationRequest
from src.serving.responses import ChatShape, TextShape, Writer
from src.talk.assistant import Assistant


def create_app(assistant: Assistant, engine: Engine, settings: ServeConfig) -> FastAPI:
    """Return the application; ``engine`` decodes with the model of ``assistant``."""
    app = FastAPI(title="gpt2-chat", docs_url=None, redoc_url=None)  # those load from elsewhere
    app.add_middleware(
        BoundedBody, max_bytes=settings.max_body_bytes, seconds=settings.receive_seconds
    )
    handle_errors(app)
    chance = random.Random(settings.generation.seed)  # for requests without a seed
    card = {
        "id": settings.model_name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "gpt2-chat",
        "max_model_len": assistant.model.config.n_positions,
    }

    async def answer(
        asked: GenerationRequest,
        request: Request,
        prompts: list[list[int]],
        shape: ChatShape | TextShape,
    ) -> Response:
        positions = assistant.model.config.n_positions
        num_answers = asked.n or 1
        copies, generations = [], []
        for prompt in prompts:
            own = answer_settings(asked, settings.generation, len(prompt), positions)
            if asked.seed is None:
                own.seed = chance.randrange(INT64)
            copies += [prompt] * num_answers
            generations += with_seeds(own, num_answers)
        answers = Answers(
            engine,
            assistant.tokenizer,
            copies,
            generations,
            strip=isinstance(shape, ChatShape),
            max_seconds=settings.max_seconds,
        )
        writer = Writer(shape, settings.model_name, sum(map(len, prompts)), answers)
        if asked.stream:
            return writer.stream(asked.wants_usage)
        return await writer.whole(request)

    @app.post("/v1/chat/completions")
    async def chat_completions(asked: ChatRequest, request: Request) -> Response:
        check_request(asked, 1, settings)
        prompts = await run_in_threadpool(chat_prompt, asked, assistant, settings.max_text_bytes)
        return await answer(asked, request, prompts, ChatShape())

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        check_request(asked, len(asked.prompt), settings)
        prompts = await run_in_threadpool(
            completion_prompts, asked, assistant, settings.max_text_bytes
        )
        return await answer(asked, request, prompts, TextShape())

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
        """How many answers are computed and how many wait; 503 if none can be."""
        status = "ok" if engine.is_alive else "stopped"
        counts = {"running": engine.num_running, "waiting": engine.num_waiting}
        return JSONResponse({"status": status, **counts}, 200 if engine.is_alive else 503)

    return app
