"""Jinja for chat templates, as ``transformers`` sets it up."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What another person's template can raise.
ERRORS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError)


class Generation(Extension):
    """``{% generation %}`` marks a model's text for training; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012 (no ClassVar: jinja2 declares it without)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def chat_environment(refuse: Callable[[str], None]) -> ImmutableSandboxedEnvironment:
    """Return the compiler of chat templates; they call ``refuse`` as ``raise_exception``."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Like Jinja's filter, without its escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
