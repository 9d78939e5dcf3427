"""Chat templates, rendered as transformers renders them, in Jinja's sandbox and within limits of
time and size.

What a template may use beside Jinja itself: ``raise_exception``, ``strftime_now``, ``tojson`` with
Python's arguments, ``break`` and ``continue``, and ``{% generation %}`` blocks, which only mark
text (transformers 5.23, utils/chat_template_utils.py).
"""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from types import FrameType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bitnet_host.errors import BadModel

__all__ = ["ChatTemplate", "Message"]

#: ``role`` (system, user, assistant, ...) and ``content``.
Message = dict[str, Any]
_SECONDS = 5.0
#: What a template may raise beside Jinja's own errors.
_FAILURES = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError,
             SyntaxError, TypeError, ValueError)
_MOST = 16 << 20  # characters of one repetition


class _Generation(Extension):
    """``{% generation %}`` ... ``{% endgeneration %}`` is what stands in it."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**", "%", "+"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise jinja2.TemplateError("it formats with %, whose widths have no bound")
        sizes = [len(side) if isinstance(side, (str, list, tuple)) else abs(side)
                 if isinstance(side, (int, float)) else 0
                 for side in (left, right)]
        sized = any(isinstance(side, (str, list, tuple)) for side in (left, right))
        if ((operator == "**"
             and max(sizes) > 1000) or (sized and operator == "*" and sizes[0] * sizes[1] > _MOST)
            or (
                sized and operator == "+" and sum(sizes) > _MOST)):
            raise jinja2.TemplateError("it repeats something too often")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, *arguments: Any, **more: Any) -> Any:
        if isinstance(getattr(function, "__self__", None), str) and any(
                isinstance(value, int) and value > _MOST for value in (*arguments, *more.values())):
            raise jinja2.TemplateError("it pads something too far")
        result = super().call(context, function, *arguments, **more)
        if isinstance(result, str) and len(result) > _MOST:
            raise jinja2.TemplateError("it repeats something too often")
        return result


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
             sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


class ChatTemplate:
    """A template from a model. Raises BadModel if it is none, or if it fails or does not end when
    it is rendered."""

    def __init__(self, source: str, special: dict[str, Any]) -> None:
        environment = _Environment(trim_blocks=True, lstrip_blocks=True,
                                   extensions=[_Generation, loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse,
                                "strftime_now": lambda layout: datetime.now().strftime(layout)}
        self._special = {name: value for name, value in special.items() if isinstance(value, str)}
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, *_FAILURES) as error:
            raise BadModel(f"the model's chat template is not usable: {error}") from None

    def render(self, messages: list[Message], **options: Any) -> str:
        """The conversation as text that ends where the assistant is to speak. ``options`` are the
        template's own, as ``tools`` and ``add_generation_prompt``."""
        limit, before = time.monotonic() + _SECONDS, sys.gettrace()

        def watch(frame: FrameType, event: str, argument: Any) -> Any:
            if time.monotonic() > limit:
                raise jinja2.TemplateError(f"it does not end within {_SECONDS:g} seconds")
            return watch

        sys.settrace(watch)  # of this thread only
        try:
            return self._template.render({
                "tools": None, "documents": None, "add_generation_prompt": True,
                **self._special, **options, "messages": messages})
        except jinja2.TemplateError as error:
            raise BadModel(f"the model's chat template refuses this conversation: "
                           f"{error}") from None
        except _FAILURES as error:
            raise BadModel(f"the model's chat template fails: {type(error).__name__}: "
                           f"{error}") from None
        finally:
            sys.settrace(before)
