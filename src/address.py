"""Where a door listens: host and port, checked before anything slow is done; and its names."""

import ipaddress
import socket
from urllib.parse import urlsplit

from src.checks import Rule
from src.errors import UserError

PORT = Rule("must be from 1 to 65535, or 0 for any free one", lambda port: 0 <= port < 2**16)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, IPv4 or IPv6; it does not listen yet.

    Raises:
        UserError: the address is in use, or it is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: a label is empty or too long
        reason = getattr(error, "strerror", None) or str(error)
        raise cannot_listen(host, port, reason) from error
    return listener


def cannot_listen(host: str, port: int, reason: str) -> UserError:
    """Return the error for an address that cannot be used."""
    hint = "; choose another with port=" if port else ""
    return UserError(f"host={host} port={port}: cannot listen there: {reason}{hint}")


def url(host: str, port: int) -> str:
    """Return the URL of a server there."""
    return f"http://{host_in_url(host)}:{port}"


def host_in_url(host: str) -> str:
    """Return ``host``, an IPv6 address in brackets (RFC 3986)."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is a name or an address of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def name_in(header: str) -> str | None:
    """Return the name in a Host header, without its port; None: it is no address."""
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return None


def is_own_name(header: str, host: str) -> bool:
    """Return whether a Host header names a server that listens at ``host``, for this machine only.

    A page of another site can make its own name point to this machine and then ask as if it were
    ours (DNS rebinding); the Host header still holds that name.
    """
    name = name_in(header)
    return name is not None and (name in ("", host.lower()) or is_loopback(name))
