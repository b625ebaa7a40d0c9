"""A model behind a URL that speaks OpenAI's API: its replies alone can be judged.

``GET {url}/models`` names the model, ``POST {url}/chat/completions`` asks it. The key, where a
server wants one, is the environment's ``OPENAI_API_KEY``, as OpenAI's own client reads it.
"""

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any

from src.errors import UserError
from src.evaluation.replies import UNREADABLE, Answer
from src.model.generation_config import GenerationConfig
from src.talk.messages import Message
from src.wording.command_line import command

FIRST_SECONDS = 25.0  # until a server has shown that it is there
REPLY_SECONDS = 300.0  # for one reply
AT_A_TIME = 8  # questions
NOT_FOUND = 404
BUSY = (429, 503)
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before a busy server is asked again
TOO_LONG = ("context", "too long", "tokens")  # in a refusal of a question's length
ENDS = {"stop": "end", "length": "length"}  # OpenAI's words for what ends a reply


class Endpoint:
    """A server of one model.

    Args:
        url: up to and with ``/v1``.

    Raises:
        UserError: nothing there answers as such a server within ``FIRST_SECONDS``.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        models = self._models().get("data")
        ids = [
            m["id"] for m in models or [] if isinstance(m, dict) and isinstance(m.get("id"), str)
        ]
        if not ids:
            raise UserError(f"model_path={url}: {self.url}/models names no model")
        self.model: str = ids[0]

    def _models(self) -> dict[str, Any]:
        try:
            return self._ask("models", None, FIRST_SECONDS)
        except _Refused as refusal:
            if refusal.code != NOT_FOUND or self.url.endswith("/v1"):
                raise
            raise UserError(
                f"model_path={self.url}: there is no /models: name the server up to /v1, for "
                f"example {self.url}/v1"
            ) from refusal

    def answer_all(
        self,
        questions: Sequence[Sequence[Message]],
        generation: GenerationConfig,
        progress: Callable[[int], object] = lambda _: None,
    ) -> list[Answer]:
        """Return the reply to each question, a few of them asked at a time.

        Raises:
            UserError: the server fails; says how.
        """

        def answer(question: Sequence[Message]) -> Answer:
            reply = self.answer(question, generation)
            progress(1)
            return reply

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            futures = [pool.submit(answer, question) for question in questions]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def answer(self, question: Sequence[Message], generation: GenerationConfig) -> Answer:
        """Return the reply to one question."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in question],
            "max_tokens": generation.max_new_tokens,
            "temperature": generation.temperature,
            "seed": generation.seed,
        }
        if generation.top_p is not None:
            body["top_p"] = generation.top_p
        if generation.stop:
            body["stop"] = list(generation.stop)
        try:
            found = self._ask_when_free(body)
        except _Refused as refusal:
            if refusal.code in (400, 413, 422) and any(w in str(refusal).lower() for w in TOO_LONG):
                return UNREADABLE
            raise
        try:
            choice = found["choices"][0]
            text = choice["message"].get("content") or ""
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(
                f"model_path={self.url}: its reply is not of OpenAI's form: {found!s:.200}"
            ) from error
        reason = ENDS.get(choice.get("finish_reason"), str(choice.get("finish_reason")))
        return Answer(text.strip(), reason)  # some servers count the end token, others do not

    def _ask_when_free(self, body: dict[str, Any]) -> dict[str, Any]:
        """Ask; a server that is busy is asked again, after a while."""
        for seconds in WAITS:
            try:
                return self._ask("chat/completions", body, REPLY_SECONDS)
            except _Refused as refusal:
                if refusal.code not in BUSY:
                    raise
                time.sleep(seconds)
        return self._ask("chat/completions", body, REPLY_SECONDS)

    def _ask(self, path: str, body: Any, seconds: float) -> dict[str, Any]:
        """Return what the server says; a server that drips bytes does not hold us up either."""
        results: SimpleQueue[dict[str, Any] | Exception] = SimpleQueue()

        def work() -> None:
            try:
                results.put(self._request(path, body, seconds))
            except Exception as error:  # whatever it is, the caller gets it
                results.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            result = results.get(timeout=seconds)
        except Empty:
            raise UserError(
                f"model_path={self.url}: no answer from /{path} within {seconds:.0f} s"
            ) from None
        if isinstance(result, Exception):
            raise result
        return result

    def _request(self, path: str, body: Any, seconds: float) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        try:
            request = urllib.request.Request(
                f"{self.url}/{path}",
                data=None if body is None else json.dumps(body).encode(),
                headers=headers,
            )
            with urllib.request.urlopen(request, timeout=seconds) as response:
                found = json.loads(response.read())
        except urllib.error.HTTPError as error:
            said = error.read(500).decode(errors="replace")
            raise _Refused(self.url, path, error.code, " ".join(said.split())) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise UserError(
                f"model_path={self.url}: no OpenAI-compatible server answers there ({reason}): "
                f"start one, for example {command('serve')}, and name it up to /v1"
            ) from error
        if not isinstance(found, dict):
            raise UserError(f"model_path={self.url}/{path}: no JSON object: {found!s:.100}")
        return found


class _Refused(UserError):
    def __init__(self, url: str, path: str, code: int, said: str):
        super().__init__(f"model_path={url}: /{path} refuses with {code}: {said:.300}")
        self.code = code
