"""Targets: what runs a model. The golden model in this process, or a board behind a transport."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from xtvu.isa import isa_hash
from xtvu.layout import unstripe

from bitnet_host.errors import UserError
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.header import MODEL_BASE
from bitnet_host.model.image import Image
from bitnet_host.run.link.simulator import Simulator
from bitnet_host.run.link.transport import MailboxTransport, SerialTransport, Transport
from bitnet_host.run.protocol import (
    ERRORS,
    GENERATE_FIELDS,
    INFO_FIELDS,
    MAX_PAYLOAD,
    OPERATORS,
    OPTIONS,
    PARTS,
    STATS_FIELDS,
    STOP_REASONS,
    VERSION,
    error_text,
    restart_text,
)
from bitnet_host.run.sampling import Sampler, SamplingOptions

__all__ = ["Answer", "BoardTarget", "Progress", "ReferenceTarget", "Target", "open_target"]

#: Called with (what, done, total) during long steps.
Progress = Callable[[str, int, int], None]
_UPLOAD_WORDS = 4096
_ANSWER_TIMEOUT = 600.0  # seconds without any event; a simulated full-size token takes minutes
_MAX_PROMPT = MAX_PAYLOAD - len(GENERATE_FIELDS)


@dataclass
class Answer:
    """What a generation gave. Cycle counts are None on the reference, which has no clock."""

    token_ids: list[int] = field(default_factory=list)
    stop_reason: str = "length"
    prompt_tokens: int = 0
    prefill_cycles: int | None = None
    decode_cycles_per_token: float | None = None
    clock_hz: int | None = None
    operators: dict[str, int] = field(default_factory=dict)
    counters: dict[str, dict[str, int]] = field(default_factory=dict)


class Target(ABC):
    """Runs one model for one conversation; ``position`` counts the tokens in its KV cache."""

    position = 0

    def __init__(self, image: Image) -> None:
        self.image = image
        self.cancelled = False

    @abstractmethod
    def prepare(self, progress: Progress) -> None:
        """Makes the model ready. Raises UserError."""

    @abstractmethod
    def generate(self, prompt: list[int], max_tokens: int, options: SamplingOptions, on_token: Callable[[int], None],
                 progress: Progress) -> Answer:
        """Appends ``prompt`` to the context and writes up to ``max_tokens`` tokens."""

    @abstractmethod
    def score(self, token: int) -> NDArray[np.float32]:
        """Appends a token; float32 logits [vocab]."""

    @abstractmethod
    def reset(self) -> None:
        """Forgets the conversation."""

    def cancel(self) -> None:
        """Asks a running ``generate`` to end; safe in a signal handler."""
        self.cancelled = True

    @abstractmethod
    def close(self) -> None:
        """Releases what the target holds."""

    def check_prompt(self, prompt: list[int]) -> None:
        """Raises UserError if the prompt is empty, has ids outside of the vocabulary or does not fit the context."""
        header = self.image.header
        if not prompt:
            raise UserError("the prompt is empty: say something")
        if any(not 0 <= token < header.vocab for token in prompt):
            raise UserError(f"token ids must lie between 0 and {header.vocab - 1}")
        if self.position + len(prompt) > header.context:
            raise UserError(f"the prompt of {len(prompt)} tokens, after {self.position} in the conversation, is longer than the model's "
                            f"context of {header.context} tokens: shorten it or start anew")

    def stop_tokens(self) -> set[int]:
        header = self.image.header
        return {getattr(header, f"stop{i}") for i in range(header.stop_count)}


class ReferenceTarget(Target):
    """The golden model."""

    def prepare(self, progress: Progress) -> None:
        self._model = ReferenceModel(self.image)

    def reset(self) -> None:
        self._model.reset()
        self.position = 0

    def close(self) -> None:
        pass

    def score(self, token: int) -> NDArray[np.float32]:
        self.check_prompt([token])
        logits = self._model.forward(token)
        self.position = self._model.position
        return logits

    def generate(self, prompt: list[int], max_tokens: int, options: SamplingOptions, on_token: Callable[[int], None],
                 progress: Progress) -> Answer:
        self.check_prompt(prompt)
        self.cancelled = False
        sampler, stops = Sampler(options), self.stop_tokens()
        answer = Answer(prompt_tokens=len(prompt))
        x = np.zeros(0, np.float32)
        for place, token in enumerate(prompt):
            if self.cancelled:
                answer.stop_reason, answer.prompt_tokens = "cancel", place
                return answer
            x = self._model.advance(token)
            self.position = self._model.position
            progress("prefill", place + 1, len(prompt))
        while len(answer.token_ids) < max_tokens:
            tokens, logits = (None, self._model.logits(x)) if options.full_head else self._model.candidates(x)
            token = sampler.choose(logits, tokens)
            answer.token_ids.append(token)
            on_token(token)
            if token in stops:
                answer.stop_reason = "stop"
                break
            if self.cancelled:
                answer.stop_reason = "cancel"
                break
            if self.position >= self.image.header.context:
                answer.stop_reason = "context"
                break
            if len(answer.token_ids) < max_tokens:
                x = self._model.advance(token)
                self.position = self._model.position
        return answer


def _stats(words: NDArray[np.uint32]) -> dict[str, int]:
    """Names for a STATS event."""
    return dict(zip(STATS_FIELDS, (int(w) for w in words), strict=True))


class BoardTarget(Target):
    """A board, real or simulated, behind a transport."""

    def __init__(self, image: Image, transport: Transport, simulator: Simulator | None = None) -> None:
        super().__init__(image)
        self.transport, self.simulator = transport, simulator
        self.clock_hz = 0

    def close(self) -> None:
        self.transport.close()
        if self.simulator is not None:
            self.simulator.close()

    # -- exchange ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """If the simulator has died, says what it died of instead of what followed."""
        try:
            yield
        except UserError:
            failure = self.simulator.failure() if self.simulator else None
            if failure:
                raise UserError(f"the simulator stopped: {failure}") from None
            raise

    def transport_event(self, timeout: float) -> tuple[str, NDArray[np.uint32]]:
        """The next event, whatever it is."""
        with self._explained():
            return self.transport.receive(timeout)

    def _event(self, *expected: str, timeout: float = _ANSWER_TIMEOUT) -> tuple[str, NDArray[np.uint32]]:
        name, payload = self.transport_event(timeout)
        if name == "ERROR":
            raise UserError(error_text(int(payload[0]), int(payload[1])))
        if name == "BOOT":
            self.position = 0
            raise UserError(restart_text(int(payload[1]), int(payload[2])))
        if name not in expected:
            raise UserError(f"the board answered {name} where {' or '.join(expected)} belongs: restart it and try again")
        return name, payload

    def info(self) -> dict[str, int]:
        """INFO_FIELDS of the board. Raises UserError if its firmware is of another version or its self-test failed."""
        self.transport.send("INFO")
        name = ""
        while name != "INFO":  # events of a command that an earlier host left running may come first
            name, words = self.transport_event(30)
            if name == "BOOT" and words[0]:  # 0: the first start, which a UART may still hold
                raise UserError(restart_text(int(words[1]), int(words[2])))
        if len(words) < 2 or words[0] != VERSION or words[1] != isa_hash():
            found = f"protocol {words[0]}, ISA {int(words[1]):08x}" if len(words) > 1 else "an unknown protocol"
            raise UserError(f"the board runs firmware of another version ({found}; this tool has protocol {VERSION}, ISA "
                            f"{isa_hash():08x}): build and load both from the same source with `make build`")
        info = dict(zip(INFO_FIELDS, (int(w) for w in words), strict=True))
        if info["selftest"]:
            raise UserError(error_text(ERRORS["SELFTEST"][0], info["selftest"]))
        return info

    def prepare(self, progress: Progress) -> None:
        info = self.info()
        self.clock_hz = info["clock_hz"]
        header = self.image.header
        if MODEL_BASE + header.total_bytes > info["memory_bytes"]:
            raise UserError(f"the model needs {(MODEL_BASE + header.total_bytes) / 2**20:.0f} MB, the board has "
                            f"{info['memory_bytes'] / 2**20:.0f} MB: choose a smaller model")
        if info["model_id"] == header.model_id:
            # It was loaded once; an upload that was broken off since may have damaged it.
            with suppress(UserError):
                self._load(progress)
                return
        words = self.image.ddr.view("<u4")
        with self._explained():
            for start in range(0, len(words), _UPLOAD_WORDS):
                self.transport.write_ddr(MODEL_BASE + 4 * start, words[start:start + _UPLOAD_WORDS])
                progress("upload", min(start + _UPLOAD_WORDS, len(words)) * 4, 4 * len(words))
        self._load(progress)

    def trust(self) -> None:
        """Uses the model that DDR holds already, without checking more than its header. For simulations with preloaded DDR."""
        self.clock_hz = self.info()["clock_hz"]
        self._load(lambda *_: None, trust=True)

    def fill_cache(self, tokens: int) -> None:
        """Takes ``tokens`` tokens of the KV cache for granted, whatever DDR holds there."""
        self.transport.send("RESET", [tokens])
        self._event("DONE")
        self.position = tokens

    def _load(self, progress: Progress, trust: bool = False) -> None:
        self.transport.send("LOAD", [int(trust)])
        while True:
            name, payload = self._event("PROGRESS", "LOADED")
            if name == "LOADED":
                break
            progress("verify", int(payload[0]), int(payload[1]))
        if payload[0] != self.image.header.model_id:
            raise UserError("the board holds another model than the one uploaded: upload it again")
        self.position = 0

    def reset(self) -> None:
        self.transport.send("RESET")
        self._event("DONE")
        self.position = 0

    def score(self, token: int) -> NDArray[np.float32]:
        self.check_prompt([token])
        self.transport.send("SCORE", [token])
        _, payload = self._event("SCORED")
        self.position = int(payload[0])
        blocks = -(-int(payload[2]) * 4 // 512)
        raw = self.transport.read_ddr(int(payload[1]), blocks * 128)
        return unstripe(raw.astype("<u4").view(np.uint8)).view(np.float32)[:int(payload[2])].copy()

    def generate(self, prompt: list[int], max_tokens: int, options: SamplingOptions, on_token: Callable[[int], None],
                 progress: Progress) -> Answer:
        self.check_prompt(prompt)
        self.cancelled = False
        prefill_cycles, start = 0, 0
        while True:  # a long prompt goes in several messages
            part = prompt[start:start + _MAX_PROMPT]
            last = start + len(part) == len(prompt)
            answer = self._run(part, max_tokens if last else 0, options, on_token, progress)
            prefill_cycles += answer.prefill_cycles or 0
            if last or answer.stop_reason == "cancel":
                break
            start += len(part)
        answer.prefill_cycles = prefill_cycles
        answer.prompt_tokens += start
        return answer

    def _run(self, prompt: list[int], max_tokens: int, options: SamplingOptions, on_token: Callable[[int], None],
             progress: Progress) -> Answer:
        values = {"max_tokens": max_tokens, "temperature": _bits(options.temperature), "top_k": options.top_k,
                  "top_p": _bits(options.top_p), "seed": options.seed,
                  "options": sum(bit for name, bit in OPTIONS.items() if getattr(options, name)), "prompt_tokens": len(prompt)}
        self.transport.send("GENERATE", [*(values[name] for name in GENERATE_FIELDS), *prompt])
        answer = Answer(clock_hz=self.clock_hz)
        told = False
        last = time.monotonic()
        while True:
            if self.cancelled and not told:
                self.transport.cancel()
                told = True
            try:
                name, payload = self._event("PROGRESS", "TOKEN", "STATS", timeout=0.25)
            except UserError as error:
                if "stopped answering" in str(error) and time.monotonic() - last < _ANSWER_TIMEOUT:
                    continue
                raise
            last = time.monotonic()
            if name == "PROGRESS":
                progress("prefill", int(payload[0]), int(payload[1]))
            elif name == "TOKEN":
                answer.token_ids.append(int(payload[0]))
                on_token(int(payload[0]))
            else:
                break
        stats = _stats(payload)
        self.position = stats["position"]
        answer.prompt_tokens = stats["prefill_tokens"]
        answer.stop_reason = next(reason for reason, code in STOP_REASONS.items() if code == stats["stop_reason"])
        answer.prefill_cycles = stats["prefill_cycles_low"] | stats["prefill_cycles_high"] << 32
        decode = stats["decode_cycles_low"] | stats["decode_cycles_high"] << 32
        if stats["tokens"] > 1:
            answer.decode_cycles_per_token = decode / (stats["tokens"] - 1)
        answer.counters = {name: {part: stats[f"{name}_{part}"] for part in PARTS} for name in OPERATORS}
        answer.operators = {name: sum(parts.values()) for name, parts in answer.counters.items()}
        return answer


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def open_target(name: str, image: Image) -> Target:
    """Opens ``sim``, ``reference``, ``udp://HOST[:PORT]`` or ``serial:DEVICE``. Raises UserError."""
    if name == "reference":
        return ReferenceTarget(image)
    if name == "sim":
        simulator = Simulator()
        try:
            return BoardTarget(image, MailboxTransport("127.0.0.1", simulator.ports["udp"]), simulator)
        except BaseException:
            simulator.close()
            raise
    if name.startswith("udp://"):
        host, _, port = name.removeprefix("udp://").partition(":")
        if not host or not re.fullmatch(r"[0-9]{0,5}", port) or not 0 < int(port or 1234) < 65536:
            raise UserError(f"--target {name}: write udp://HOST or udp://HOST:PORT")
        return BoardTarget(image, MailboxTransport(host, int(port or 1234)))
    if name.startswith("serial:"):
        device = name.removeprefix("serial:")
        if not device:
            raise UserError("--target serial: needs a device, for example serial:/dev/ttyUSB0")
        if "://" not in device and not Path(device).exists():
            raise UserError(f"there is no device {device}: plug the board in or name its port")
        return BoardTarget(image, SerialTransport(device))
    raise UserError(f"--target {name} is unknown: choose sim, reference, udp://HOST[:PORT] or serial:DEVICE")
