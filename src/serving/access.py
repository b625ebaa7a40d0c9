"""Who may ask: by the name that the request calls this server, and by a key."""

import hmac
import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from src.address import is_loopback, is_own_name, name_in
from src.serving.config import ServeConfig
from src.serving.errors import ApiError

OPEN_PATHS = ("/health",)  # a watchdog has no key


class Access:
    """ASGI middleware: refuses requests for other hosts, and those without the key.

    Starlette's TrustedHostMiddleware compares the same names (``is_own_name`` says why), but
    answers in plain text and does not say what to do.
    """

    def __init__(self, app: ASGIApp, settings: ServeConfig):
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            error = self._refusal(headers, scope["path"])
            if error is not None:
                await error.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, headers: Headers, path: str) -> ApiError | None:
        if not allows_host(self.settings, headers.get("Host", "")):
            name = ascii(headers.get("Host", ""))[1:-1][:100]
            message = f"this server does not answer to the name {name}; allowed_hosts= allows names"
            return ApiError(message, code="host_not_allowed", status=403)
        if self.settings.api_key is None or path in OPEN_PATHS:
            return None
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(
            key.strip().encode(), self.settings.api_key.encode()
        ):
            return None
        message = "the API key is wrong" if key else "no API key: Authorization: Bearer <key>"
        return ApiError(
            message, code="invalid_api_key", status=401, headers={"WWW-Authenticate": "Bearer"}
        )


def allows_host(settings: ServeConfig, header: str) -> bool:
    """Whether a request may call the server by the name of this Host header, its port aside.

    Without ``allowed_hosts``, a server that listens on this machine only has the names of this
    machine only; another one has any name.
    """
    if settings.allowed_hosts is not None:
        name = name_in(header)
        return name is not None and any(
            _matches(name, allowed.lower()) for allowed in settings.allowed_hosts
        )
    return not is_loopback(settings.host) or is_own_name(header, settings.host)


def _matches(name: str, allowed: str) -> bool:
    if allowed == "*":
        return True
    if allowed.startswith("*."):
        return name.endswith(allowed[1:])
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(allowed.strip("[]"))
    except ValueError:
        return name == allowed
