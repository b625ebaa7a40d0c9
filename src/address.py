"""Where a door listens: host and port, checked before anything slow is done."""

import socket

from src.checks import Rule
from src.errors import UserError

PORT = Rule("must be from 1 to 65535, or 0 for any free one", lambda port: 0 <= port < 2**16)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket of that address, IPv4 or IPv6; nobody listens yet.

    Raises:
        UserError: the address is taken or is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: a label is empty or too long
        reason = getattr(error, "strerror", None) or str(error)
        raise cannot_listen(host, port, reason) from error
    return bound


def cannot_listen(host: str, port: int, reason: str) -> UserError:
    """Return the error of an address that cannot be had."""
    hint = "; choose another with port=" if port else ""
    return UserError(f"host={host} port={port}: cannot listen there: {reason}{hint}")


def url(host: str, port: int) -> str:
    """Return the URL of a server there."""
    return f"http://{host_in_url(host)}:{port}"


def host_in_url(host: str) -> str:
    """Return ``host``, an IPv6 address in brackets (RFC 3986)."""
    return f"[{host}]" if ":" in host else host
