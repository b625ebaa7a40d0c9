"""Jinja as chat templates expect it, which is as ``transformers`` runs it."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What a template can raise, written by others as it is.
ERRORS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError)


class Generation(Extension):
    """``{% generation %}`` marks what a model says, for training; here it marks nothing."""

    tags = {"generation"}  # noqa: RUF012 (no ClassVar: jinja2 declares it without)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def chat_environment(refuse: Callable[[str], None]) -> ImmutableSandboxedEnvironment:
    """Return what compiles chat templates; ``refuse`` is their ``raise_exception``."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Unlike Jinja's own, for HTML is none of its readers."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
