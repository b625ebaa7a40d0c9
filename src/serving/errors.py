"""Every refusal has OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from collections.abc import Mapping

from fastapi import FastAPI, Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

MAX_MESSAGE = 400  # characters: a message may quote a client's text

TYPES = {404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """The refusal of a request: its reason, and the parameter to change."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status
        self.headers = headers

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON that the client reads."""
        other = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": _plain(self.message),
                "type": TYPES.get(self.status, other),
                "param": _plain(self.param) if self.param is not None else None,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        return JSONResponse(self.body, self.status, self.headers)

    async def close(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, the last one of its connection."""
        response = self.response()
        response.headers["Connection"] = "close"
        await response(scope, receive, send)


def busy(message: str, status: int) -> ApiError:
    """Return the refusal of a request that the client may send again in a second."""
    code = "rate_limit_exceeded" if status == 429 else "overloaded"
    return ApiError(message, code=code, status=status, headers={"Retry-After": "1"})


def handle_errors(app: FastAPI) -> None:
    """Give every error of ``app`` OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        request.state.record.fault = " ".join(filter(None, (error.param, error.code)))
        return error.response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message = {
            400: "the body could not be read as JSON",
            404: f"there is no {request.url.path}; there is /v1/chat/completions",
            405: f"{request.url.path} does not take {request.method}",
        }.get(error.status_code, str(error.detail))
        return ApiError(message, status=error.status_code, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def ours(_: Request, error: Exception) -> JSONResponse:
        return ApiError("the server failed; its log says why", status=500).response()


def invalid(error: ValidationError) -> ApiError:
    """Return the refusal of a body for its first fault."""
    first = error.errors(include_url=False, include_input=False)[0]
    location, kind, message = first["loc"], first["type"], first["msg"]
    param = ".".join(map(str, location))
    if kind == "missing":
        return ApiError(f"{param} is missing", param, "missing_required_parameter")
    return ApiError(f"{param}: {message[0].lower()}{message[1:]}", param, "invalid_value")


def _plain(text: str) -> str:
    """Return ``text`` as one short line of valid Unicode."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return line if len(line) <= MAX_MESSAGE else line[:MAX_MESSAGE] + " ..."
