"""Answers for requests: who waits for a slot, the thread in which an answer is written, and what of
it reaches the request."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bitnet_host.errors import UserError
from bitnet_host.model.text import TextModel
from bitnet_host.run.pool import Pool
from bitnet_host.run.session import Reply, Session, Token
from bitnet_host.run.target import Answer, Cancel
from bitnet_host.serve.metrics import Metrics
from bitnet_host.serve.model import Ask, Model
from bitnet_host.serve.refused import Refused, refusal
from bitnet_host.serve.settings import Settings
from bitnet_host.serve.timing import Timing

__all__ = ["Engine", "Job", "Read"]

_STEP = 32  # tokens of a prompt between two reports


@dataclass(frozen=True)
class Read:
    """So many tokens of the prompt are in the KV cache, of which ``cached`` were before."""

    total: int
    cached: int
    processed: int


class Job:
    """An answer under way. Iterate over it for what there is of it so far; then ``reply`` and
    ``timing`` are whole. ``cancel`` at any time."""

    def __init__(self, ask: Ask, ended: Callable[[Job], None]) -> None:
        self.ask, self._ended = ask, ended
        self.timing = Timing(len(ask.prompt.ids))
        self.slot: int | None = None
        self.busy = 0  # answers that were written when it began
        self.tokens: list[Token] = []
        self._reply: Reply | None = None
        self._cancel = Cancel()
        self._events: asyncio.Queue[Token | Read | Reply | Exception] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._reported = -1
        self.task: asyncio.Task[None] | None = None

    @property
    def answer(self) -> Answer | None:
        """What a board said of it, if it came to its end."""
        return self._reply.answer if self._reply else None

    @property
    def reply(self) -> Reply:
        assert self._reply is not None, "it is there at the end"
        return self._reply

    async def __aiter__(self) -> AsyncIterator[Token | Read]:
        try:
            while True:
                event = await self._events.get()
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, Reply):
                    return
                yield event
        finally:
            self.cancel()

    async def whole(self) -> Reply:
        """Waits for the end."""
        async for _ in self:
            pass
        return self.reply

    def cancel(self) -> None:
        """Ends the answer, wherever it is."""
        self._cancel.set()
        if self.slot is None and self.task is not None:
            self.task.cancel()

    @property
    def cancelled(self) -> bool:
        return bool(self._cancel)

    def tell(self, event: Token | Read | Reply | Exception) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: Token | Read | Reply | Exception) -> None:
        if isinstance(event, Reply | Exception):
            self._ended(self)  # before the client hears of the end, and asks
        self._events.put_nowait(event)

    # -- in the thread of the answer ---------------------------------------------------------------

    def run(self, session: Session) -> None:
        """Writes the answer. Everything that goes wrong is told."""
        ask = self.ask
        try:
            self.timing.begin()
            stream = session.complete(ask.prompt, max_tokens=ask.max_tokens, stop=ask.stops,
                                      sampling=ask.sampling, cancel=self._cancel,
                                      progress=self._progress)
            for token in stream:
                if token.id is not None:
                    self.timing.token()
                self.tokens.append(token)
                self.tell(token)
            self._reply = stream.reply
            self.timing.end(self._reply)
            self.tell(self._reply)
        except Exception as error:  # the request hears of it
            self.tell(error)

    def _progress(self, what: str, done: int, total: int) -> None:
        cached = self.timing.prompt - total
        if self._reported < 0:
            self._reported = 0
            self.tell(Read(self.timing.prompt, cached, cached))
        if done - self._reported >= _STEP or done == total:
            self._reported = done
            self.tell(Read(self.timing.prompt, cached, cached + done))


class Engine(Model):
    """Shares the slots of ``pool`` among requests, in the order in which they came."""

    def __init__(self, pool: Pool, text: TextModel, settings: Settings) -> None:
        super().__init__(pool.image, text, settings.defaults, settings.thinking)
        self.pool, self.settings = pool, settings
        self.metrics = Metrics()
        self.running: dict[int, Job] = {}
        self.started = int(time.time())
        self.waiting = 0
        self._free = list(range(pool.count))
        self._turn = asyncio.Semaphore(pool.count)
        self._threads = ThreadPoolExecutor(pool.count, thread_name_prefix="answer")

    def start(self, asks: Sequence[Ask]) -> list[Job]:
        """Begins answers, which wait until slots are free. Raises Refused if too many wait."""
        if self.waiting + len(asks) > self.settings.queue + len(self._free):
            raise _full()
        jobs = [Job(ask, self._ended) for ask in asks]
        for job in jobs:
            job.task = asyncio.create_task(self._drive(job))
        return jobs

    async def _drive(self, job: Job) -> None:
        self.waiting += 1
        try:
            await asyncio.wait_for(self._turn.acquire(), self.settings.queue_seconds)
        except TimeoutError:
            job.tell(_full())
            return
        finally:
            self.waiting -= 1
        try:
            if not job.cancelled:
                await self._answer(job)
        finally:
            self._turn.release()

    async def _answer(self, job: Job) -> None:
        job.slot = heapq.heappop(self._free)
        self.running[job.slot] = job
        job.busy = len(self.running)
        session = Session(self.pool, self.text, self.spelling)
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, job.run, session)
        finally:
            self._ended(job)

    def _ended(self, job: Job) -> None:
        if job.slot is not None and self.running.get(job.slot) is job:
            del self.running[job.slot]
            heapq.heappush(self._free, job.slot)
            self.metrics.count(job)

    def refusal(self, error: Exception) -> Refused:
        """What a client hears of what went wrong."""
        if isinstance(error, Refused):
            return error
        if isinstance(error, UserError):
            return refusal(error, self.context)
        return Refused(500, "the server has a fault, which its log tells of")

    async def close(self) -> None:
        """Ends all answers."""
        for job in [*self.running.values()]:
            job.cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)


def _full() -> Refused:
    return Refused(503, "all slots are busy and too many requests wait: try again later",
                   retry_after=10)
