"""One question, or a conversation at a terminal: words as they come, and what they cost."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from bitnet_host.apps.progress import ProgressDisplay
from bitnet_host.apps.prompt import Prompt
from bitnet_host.errors import BadArgument, UserError
from bitnet_host.files import read_json, replacing
from bitnet_host.model.template import Message
from bitnet_host.run.sampling import Sampling
from bitnet_host.run.session import Reply, Session, Stream
from bitnet_host.run.target import Answer, Cancel

__all__ = ["Conversation", "as_json", "interruptible", "show", "statistics"]

_HELP = """/help            this list
/reset           forget the conversation
/retry           answer the last message again
/system [TEXT]   show or change the system prompt, and start anew
/set [NAME VALUE]  show or change max_tokens, temperature, top_k, top_p, min_p, seed, ...
/save FILE       write the conversation
/load FILE       go on with a saved one
/stats           what the last answer cost
/quit            end (also Ctrl-D); Ctrl-C stops an answer"""
_CUT = {"length": "the answer was cut at max_tokens; /set max_tokens N allows longer ones",
        "context": "the answer was cut: the context is full; the oldest messages go when you go on",
        "memory": "the answer was cut: other conversations have the rest of the board's KV cache",
        "cancel": "stopped"}


@contextmanager
def interruptible() -> Iterator[Cancel]:
    """Ctrl-C ends the answer, not the program and not the board; a second one ends the program."""
    cancel = Cancel()

    def stop(*_: object) -> None:
        if cancel:
            raise KeyboardInterrupt  # asked twice: the board does not react
        cancel.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)


def statistics(reply: Reply) -> str:
    """One line for people."""
    usage, answer = reply.usage, reply.answer
    cached = f" ({usage.cached} of them kept)" if usage.cached else ""
    parts = [f"{usage.prompt} prompt tokens{cached}, {usage.completion} tokens "
             f"({reply.stop_reason})"]
    if answer.prefill_cycles is not None:
        parts.append(f"prefill {answer.prefill_cycles:,} cycles")
    if answer.decode_cycles_per_token:
        rate = (answer.clock_hz or 0) / answer.decode_cycles_per_token
        parts.append(f"decode {answer.decode_cycles_per_token:,.0f} cycles per token = {rate:,.1f} "
                     f"tokens/s at "
                     f"{(answer.clock_hz or 0) / 1e6:.0f} MHz")
    return "; ".join(parts)


def as_json(reply: Reply) -> str:
    """The object of --json."""
    answer: Answer = reply.answer
    per_token = answer.decode_cycles_per_token
    values: dict[str, Any] = {
        "text": reply.text, "token_ids": answer.token_ids, "prompt_tokens": reply.usage.prompt,
        "cached_tokens": reply.usage.cached,
        "stop_reason": reply.stop_reason, "prefill_cycles": answer.prefill_cycles,
        "decode_cycles_per_token": per_token,
        "clock_hz": answer.clock_hz,
        "tokens_per_second": answer.clock_hz / per_token if answer.clock_hz and per_token else None,
        "operators": answer.operators,
    }
    return json.dumps(values)


def show(stream: Stream, display: ProgressDisplay, visible: bool = True) -> Reply:
    """Prints an answer while it is written."""
    for token in stream:
        display.end()
        if visible:
            print(token.text, end="", flush=True)
    display.end()
    if visible:
        print(flush=True)
    return stream.reply


class Conversation:
    """The interactive chat: what was said so far, and how answers are made."""

    def __init__(self, session: Session, system: str | None, max_tokens: int, sampling: Sampling,
                 display: ProgressDisplay) -> None:
        self._session, self._display = session, display
        self._system, self._max_tokens, self._sampling = system, max_tokens, sampling
        self._messages: list[Message] = []
        self._last: Reply | None = None
        self._commands = {"/help": self._help, "/reset": self._reset, "/retry": self._retry,
                          "/system": self._change_system,
                          "/set": self._set,
                          "/save": self._save, "/load": self._load, "/stats": self._stats}

    def run(self, prompt: Prompt) -> None:
        """Reads messages until the end of input or /quit."""
        print("Type a message. /help lists commands; Ctrl-C stops an answer, Ctrl-D ends.")
        for line in prompt:
            text = line.strip()
            name, _, rest = text.partition(" ")
            if text in ("/quit", "/exit"):
                return
            try:
                if name in self._commands and "\n" not in text:
                    self._commands[name](rest.strip())
                elif text:
                    self._say(text)
            except UserError as error:
                self._display.end()
                print(error)

    def _say(self, text: str) -> None:
        self._answer([*self._messages, {"role": "user", "content": text}])

    def _answer(self, messages: list[Message]) -> None:
        system = [{"role": "system", "content": self._system}] if self._system else []
        with interruptible() as cancel:
            reply = show(self._session.chat([*system, *messages], max_tokens=self._max_tokens,
                                            sampling=self._sampling, cancel=cancel,
                                            progress=self._display), self._display)
        if reply.dropped:
            print(f"({reply.dropped} old messages no longer fit the context and were left out.)")
        if reply.stop_reason in _CUT:
            print(f"({_CUT[reply.stop_reason]})")
        self._last = reply
        kept = [message for message in reply.kept if message not in system]
        self._messages = ([*kept, {"role": "assistant", "content": reply.text}] if reply.text
                          else messages[:-1])

    # -- commands ----------------------------------------------------------------------------------

    def _help(self, _: str) -> None:
        print(_HELP)

    def _reset(self, _: str) -> None:
        self._messages = []
        print("The conversation is empty.")

    def _retry(self, _: str) -> None:
        while self._messages and self._messages[-1]["role"] != "user":
            self._messages.pop()
        if not self._messages:
            print("There is no message to answer again.")
            return
        self._answer(self._messages)

    def _change_system(self, text: str) -> None:
        if text:
            self._system, self._messages = text, []
            print("The system prompt is changed; the conversation is empty.")
        else:
            print(self._system or "There is no system prompt.")

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        known = {f.name for f in fields(Sampling)} - {"logit_bias", "full_head", "logprobs"}
        if not text:
            print(f"max_tokens {self._max_tokens}",
                  *(f"{n} {getattr(self._sampling, n)}" for n in sorted(known)), sep="\n")
        elif name == "max_tokens" and value.isdecimal() and len(value) < 10 and int(value) > 0:
            self._max_tokens = int(value)
        elif name in known:
            try:
                number: Any = (None if value == "none" else int(value) if name in ("top_k", "seed")
                               else float(value))
                self._sampling = replace(self._sampling, **{name: number})
            except ValueError:
                raise BadArgument(f"{name} must be a number, not {value!r}") from None
        else:
            raise BadArgument(f"/set takes max_tokens N or one of {', '.join(sorted(known))}")

    def _save(self, name: str) -> None:
        text = json.dumps({"system": self._system, "messages": self._messages}, ensure_ascii=False,
                          indent=1)
        with replacing(Path(name)) as file:
            file.write(text.encode(errors="replace"))
        print(f"Saved {len(self._messages)} messages in {name}.")

    def _load(self, name: str) -> None:
        saved = read_json(Path(name))
        messages, system = saved.get("messages"), saved.get("system")
        if not isinstance(messages, list) or not isinstance(system, (str, type(None))) or not all(
                isinstance(m, dict)
            and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in messages):
            raise BadArgument(f"{name} holds no saved conversation")
        self._messages, self._system = messages, system
        print(f"{len(messages)} messages.")

    def _stats(self, _: str) -> None:
        if self._last is None:
            print("Nothing has been said yet.")
            return
        operators = self._last.answer.operators
        total = sum(operators.values()) or 1
        print(statistics(self._last))
        for name, cycles in operators.items():
            if cycles:
                print(f"  {name:<11}{cycles:>12,} cycles  {100 * cycles / total:5.1f} %")
