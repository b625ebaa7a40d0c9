"""Where a door listens: one line for what cannot be had."""

import socket

import pytest

from src.address import PORT, bind, url
from src.errors import UserError


def test_an_address_that_cannot_be_had_is_one_line():
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port}: cannot listen there: .*port="):
            bind("127.0.0.1", port)
    with pytest.raises(UserError, match=r"host=192\.0\.2\.1 "):
        bind("192.0.2.1", 0)
    with pytest.raises(UserError, match="host=no such host "):
        bind("no such host", 0)
    for host in ("a" * 70, "a..b"):  # no label of a host name
        with pytest.raises(UserError, match=f"host={host} port=7: .* choose another with port="):
            bind(host, 7)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_has_a_range(port):
    PORT.check("port", 0)
    PORT.check("port", 65535)
    with pytest.raises(UserError, match=f"port={port}: must be from 1 to 65535, or 0"):
        PORT.check("port", port)


def test_ipv6_is_an_address_like_another():
    try:
        with bind("::1", 0) as bound:
            assert bound.family == socket.AF_INET6
    except UserError:
        pytest.skip("no IPv6 on this machine")
    assert url("::1", 80) == "http://[::1]:80"
    assert url("127.0.0.1", 80) == "http://127.0.0.1:80"
