"""The chat: one question or many, words as they come, and what they cost."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from bitnet_host.errors import UserError
from bitnet_host.model.text import Conversation, TextModel
from bitnet_host.run.board import Answer, Target
from bitnet_host.run.sampling import SamplingOptions

__all__ = ["ProgressDisplay", "answer_once", "as_json", "converse", "statistics"]


class ProgressDisplay:
    """Shows long steps on stderr: a bar on a terminal, a line per tenth elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._what, self._tenth = "", -1

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self.end()
            self._what, self._tenth = what, -1
            if self._console.is_terminal:
                self._bar = Bar(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
                                console=self._console, transient=True)
                self._bar.start()
                self._task = self._bar.add_task(what, total=total)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif 10 * done // max(total, 1) > self._tenth:
            self._tenth = 10 * done // max(total, 1)
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
        if done >= total:
            self.end()

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar, self._task = None, None
        self._what = ""


class _Printer:
    """Prints tokens as text while they come; holds back bytes of unfinished characters."""

    def __init__(self, text: TextModel, show: bool, before: Callable[[], None]) -> None:
        self._text, self._show, self._before = text, show, before
        self._ids: list[int] = []
        self._printed = ""

    def __call__(self, token: int) -> None:
        if not self._ids:
            self._before()
        self._ids.append(token)
        whole = self._text.decode(self._ids)
        if not whole.endswith("\ufffd") and self._show:
            print(whole[len(self._printed):], end="", flush=True)
            self._printed = whole

    def finish(self) -> None:
        """Prints what was held back."""
        if self._show:
            print(self._text.decode(self._ids)[len(self._printed):], flush=True)


@contextmanager
def _interruptible(target: Target):
    """Ctrl-C ends the answer, not the program and not the board; a second one ends the program."""
    def stop(*_: object) -> None:
        if target.cancelled:
            raise KeyboardInterrupt  # asked twice: the board does not react
        target.cancel()

    target.cancelled = False
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def statistics(answer: Answer) -> str:
    """One line for people."""
    parts = [f"{answer.prompt_tokens} prompt tokens, {len(answer.token_ids)} tokens ({answer.stop_reason})"]
    if answer.prefill_cycles is not None:
        parts.append(f"prefill {answer.prefill_cycles:,} cycles")
    if answer.decode_cycles_per_token:
        rate = (answer.clock_hz or 0) / answer.decode_cycles_per_token
        parts.append(f"decode {answer.decode_cycles_per_token:,.0f} cycles per token = {rate:,.1f} tokens/s at "
                     f"{(answer.clock_hz or 0) / 1e6:.0f} MHz")
    return "; ".join(parts)


def as_json(answer: Answer, text: str) -> str:
    """The object of --json."""
    per_token = answer.decode_cycles_per_token
    fields: dict[str, Any] = {
        "text": text, "token_ids": answer.token_ids, "prompt_tokens": answer.prompt_tokens, "stop_reason": answer.stop_reason,
        "prefill_cycles": answer.prefill_cycles, "decode_cycles_per_token": per_token, "clock_hz": answer.clock_hz,
        "tokens_per_second": answer.clock_hz / per_token if answer.clock_hz and per_token else None,
        "operators": answer.operators,
    }
    return json.dumps(fields)


def answer_once(target: Target, text: TextModel, prompt: list[int], max_tokens: int, options: SamplingOptions,
                display: ProgressDisplay, *, show: bool) -> tuple[Answer, str]:
    """Runs one generation with streaming output; returns the answer and its text."""
    printer = _Printer(text, show, display.end)
    with _interruptible(target):
        answer = target.generate(prompt, max_tokens, options, printer, display)
    display.end()
    printer.finish()
    return answer, text.decode(answer.token_ids)


def _details(answer: Answer) -> str:
    total = sum(answer.operators.values()) or 1
    rows = [f"  {name:<11}{cycles:>12,} cycles  {100 * cycles / total:5.1f} %" for name, cycles in answer.operators.items() if cycles]
    return "\n".join([statistics(answer), *rows])


def converse(target: Target, text: TextModel, system: str | None, max_tokens: int, options: SamplingOptions,
             display: ProgressDisplay) -> None:
    """The interactive chat, until /quit or the end of input."""
    conversation = Conversation(text, system)
    last: Answer | None = None
    print("Type a message. Ctrl-C stops an answer; /reset, /stats, /quit.")
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line in ("/quit", "/exit"):
            return
        if line == "/reset":
            target.reset()
            conversation.clear()
            print("The conversation is empty.")
        elif line == "/stats":
            print(_details(last) if last else "Nothing has been said yet.")
        elif line.startswith("/"):
            print("There are /reset, /stats and /quit.")
        elif line:
            try:
                ids, fresh = conversation.ask(line)
                if fresh and target.position:
                    target.reset()
                target.check_prompt(ids)
            except UserError as error:
                print(error)
                target.reset()
                conversation.clear()
                print("The conversation was reset.")
                continue
            last, _ = answer_once(target, text, ids, max_tokens, options, display, show=True)
            if last.token_ids:
                conversation.answered(last.token_ids, target.stop_tokens())
            else:  # stopped within the question: the model has read only part of it
                target.reset()
                conversation.clear()
                print("Stopped before the answer; the conversation was reset.")
