"""Conversations as clients send them, and their prompts."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from bitnet_host.model.template import Message
from bitnet_host.run.session import Prompt
from bitnet_host.serve.fields import Fields
from bitnet_host.serve.model import Model
from bitnet_host.serve.refused import Refused

__all__ = ["chat_prompt", "content_text", "messages_of", "text_prompts"]

_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


def content_text(content: Any, where: str) -> str:
    """Text of a message: as it is, or in parts. Raises Refused for pictures and the like."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refused(400, f"{where} must be text or a list of parts", param=where)
    texts = []
    for part in content:
        part = {"type": "text", "text": part} if isinstance(part, str) else part
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind not in _TEXT_PARTS:
            raise Refused(400, f"{where} has a part that is no text: the model reads text only",
                          param=where)
        text = part.get("text", part.get("refusal"))
        if not isinstance(text, str):
            raise Refused(400, f"{where} has a part without text", param=where)
        texts.append(text)
    return "\n\n".join(texts)


def messages_of(fields: Fields, name: str = "messages") -> list[Message]:
    """Messages with a role and a content that are text, and whatever else they have."""
    found = fields.raw(name)
    if not isinstance(found, list) or not found:
        raise Refused(400, f"{name} must be a list with a message at least", param=name)
    messages = []
    for place, message in enumerate(found):
        where = f"{name}[{place}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refused(400, f"{where} must be an object with a role", param=where)
        if "content" not in message and not message.get("tool_calls"):
            raise Refused(400, f"{where} must have a content", param=where)
        role = "system" if message["role"] == "developer" else message["role"]
        text = content_text(message.get("content"), f"{where}.content")
        messages.append({**message, "role": role, "content": text})
    return messages


def chat_prompt(model: Model, messages: list[Message], fields: Fields) -> Prompt:
    """The conversation for the model, with what a request may ask of the template."""
    goes_on, begins = fields.flag("continue_final_message"), fields.raw("add_generation_prompt")
    if goes_on and begins:
        raise Refused(400, "add_generation_prompt and continue_final_message contradict each other")
    tools = fields.objects("tools")
    options: dict[str, Any] = {"tools": tools or None, **_extras(tools)}
    if begins is not None and not goes_on:
        options["add_generation_prompt"] = fields.flag("add_generation_prompt")
    asked = fields.inner("chat_template_kwargs")
    options["enable_thinking"] = model.thinking
    if asked is not None and asked.raw("enable_thinking") is not None:
        options["enable_thinking"] = asked.flag("enable_thinking")
    return model.spelling.encode(messages, **options)


def _extras(tools: list[dict[str, Any]]) -> dict[str, str]:
    """What templates expect beside transformers' own names, as llama-server has it."""
    today = date.today()
    return {"date_string": today.strftime("%d %b %Y"), "datetime": today.strftime("%b %d %Y"),
            "functions": json.dumps(tools, indent=4) if tools else ""}


def text_prompts(model: Model, value: Any) -> tuple[list[Prompt], bool]:
    """Prompts of a completion: text, token ids, both in a row, or a list of such; and whether it
    was a list."""
    if isinstance(value, list) and value and not any(_is_token(item) for item in value):
        return [_text_prompt(model, item) for item in value], True
    return [_text_prompt(model, value)], False


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text_prompt(model: Model, value: Any) -> Prompt:
    if isinstance(value, dict):
        if value.get("multimodal_data"):
            raise Refused(400, "the model reads text only", param="prompt")
        value = value.get("prompt_string")
    if isinstance(value, str):
        return Prompt("", model.text.encode_raw(value))
    if not isinstance(value, list) or not value:
        raise Refused(400, "prompt must be text, token ids, or a list of such", param="prompt")
    ids: list[int] = []
    for place, item in enumerate(value):
        if _is_token(item):
            ids.append(item)
        elif isinstance(item, str):
            ids += model.text.encode_raw(item) if place == 0 else model.text.encode_part(item)
        else:
            raise Refused(400, "prompt must be text, token ids, or a list of such", param="prompt")
    return Prompt("", ids)
