"""The server on simulated boards: what clients of all kinds get is bit by bit what the golden model
says."""

from __future__ import annotations

import json
import random
import socket
import threading
import time

import httpx
import openai
import pytest
from bitnet_host import Grammars, Sampling, Session, Slots, open_board
from serving import answering, quick_image, serving


@pytest.fixture(scope="module")
def expected():
    with answering() as answer:
        yield answer


def _user(text):
    return [{"role": "user", "content": text}]


class Client:
    """Twenty requests of all kinds, drawn with a seed. ``wrong`` has what was not as it must be."""

    def __init__(self, url, expected, seed):
        self.url, self.expected, self.random = url, expected, random.Random(seed)
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=120)
        self.wrong, self.kinds = [], []

    def run(self):
        kinds = [self.whole, self.streamed, self.sampled, self.cancelled, self.slow, self.broken]
        try:
            for place in range(20):
                kind = kinds[place] if place < len(kinds) else self.random.choice(kinds)
                self.kinds.append(kind.__name__)
                kind(f"{kind.__name__} {self.random.randrange(10**6)}")
        except Exception as error:  # told to the test
            self.wrong.append(repr(error))
        finally:
            self.openai.close()

    def _ask(self, text, **options):
        return self.openai.chat.completions.create(
            model="x", messages=_user(text), max_tokens=8, **{"temperature": 0} | options)

    def _same(self, said, text, **sampling):
        right = self.expected(_user(text), 8, **sampling).text
        if said != right:
            self.wrong.append((said, right))

    def whole(self, text):
        self._same(self._ask(text).choices[0].message.content, text)

    def streamed(self, text, pause=0.0):
        said = ""
        for chunk in self._ask(text, stream=True):
            said += chunk.choices[0].delta.content or ""
            time.sleep(pause)
        self._same(said, text)

    def slow(self, text):
        self.streamed(text, 0.1)

    def sampled(self, text):
        seed = self.random.randrange(1000)
        said = self._ask(text, temperature=1.5, seed=seed).choices[0].message.content
        self._same(said, text, temperature=1.5, seed=seed)

    def cancelled(self, text):
        """In the middle, or before anything came."""
        if self.random.random() < 0.5:
            with self._ask(text, stream=True) as stream:
                next(iter(stream))
        else:
            try:
                httpx.post(f"{self.url}/v1/chat/completions", timeout=0.05, json={
                    "messages": _user(text), "max_tokens": 200})
            except httpx.TimeoutException:
                pass

    def broken(self, text):
        """Half a request, and one that is no JSON."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as line:
            line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                         b"Content-Length: 999\r\n\r\n{\"messages\": ")
        answer = httpx.post(f"{self.url}/api/chat", content=b"{")
        if answer.status_code != 400 or set(answer.json()) != {"error"}:
            self.wrong.append(answer.text)


def test_four_clients_of_twenty_requests(expected):
    with serving(quick_image(), targets=("sim",)) as (url, pool):
        clients = [Client(url, expected, seed) for seed in range(4)]
        threads = [threading.Thread(target=client.run) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [client.wrong for client in clients] == [[], [], [], []]
        assert all(len(client.kinds) == 20 for client in clients)
        limit = time.monotonic() + 20
        while pool.boards[0].busy and time.monotonic() < limit:
            time.sleep(0.05)
        assert pool.boards[0].busy == 0 and not pool.boards[0].error
        counters = httpx.get(f"{url}/metrics").text
        values = dict(line.split() for line in counters.splitlines()
                      if line.startswith(("llamacpp", "bitnet")) and "{" not in line)
        assert int(values["bitnet:bytes_total"]) > 0
        assert int(values["bitnet:stall_memory_cycles_total"]) > 0
        _check_board(url)


def _check_board(url):
    """What an answer says of the board, beside the same answer of a session."""
    body = {"messages": _user("Board"), "max_tokens": 6, "temperature": 0}
    told = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()["board"]
    assert sum(told["kinds"].values()) == sum(told["operators"].values())
    assert abs(told["cycles_per_token"] - sum(told["operators"].values())) < 2000
    assert told["tokens_per_second"] == pytest.approx(125e6 / told["cycles_per_token"], 1e-3)
    assert told["bytes_per_token"] == 32 * told["kinds"]["moving"]
    whole = httpx.post(f"{url}/v1/chat/completions", json=body | {"stream": True}, timeout=60).text
    last = json.loads(whole.split("data: ")[-2])
    assert last["board"]["kinds"].keys() == told["kinds"].keys()


def test_a_board_that_is_killed(expected):
    """Its answers go on with the other one, as they would have; it comes back."""
    opened = []

    def open_one(name, image, progress):
        opened.append(open_board(name, image, progress))
        return opened[-1]

    with serving(quick_image(), targets=("sim", "sim"), slots=3, open_one=open_one) as (url, pool):
        said, texts = {}, [f"Number {n}" for n in range(6)]

        def ask(text):
            with httpx.stream("POST", f"{url}/v1/chat/completions", timeout=120, json={
                    "messages": _user(text), "max_tokens": 60, "temperature": 0,
                    "stream": True}) as response:
                lines = [json.loads(line[6:]) for line in response.iter_lines()
                         if line.startswith("data: {")]
            said[text] = "".join(line["choices"][0]["delta"].get("content") or ""
                                 for line in lines)

        threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        while not any(slot.tokens for slot in opened[1].slots):
            time.sleep(0.01)
        time.sleep(0.3)
        opened[1].simulator._process.kill()
        for thread in threads:
            thread.join()
        for text in texts:
            assert said[text] == expected(_user(text), 60).text
        limit = time.monotonic() + 60
        while any(board.error for board in pool.boards) and time.monotonic() < limit:
            time.sleep(0.1)
        assert len(opened) == 3 and not any(board.error for board in pool.boards)
        health = httpx.get(f"{url}/health").json()
        assert [board["status"] for board in health["boards"]] == ["ok", "ok"]


def test_grammars_on_a_board():
    """Where none of the board's candidates will do, it scores all tokens: for several answers at
    once, among others."""
    image = quick_image()
    grammar = Grammars(image).schema({"type": "array", "minItems": 2, "maxItems": 2,
                                      "items": {"enum": ["apple", "pear", "plum"]}})
    samplings = [Sampling(temperature=2.0, seed=seed, grammar=grammar) for seed in range(3)]
    samplings += [Sampling(), Sampling(temperature=2.0, seed=9)]

    def answers(target):
        slots, said = Slots(target), {}
        threads = [threading.Thread(target=lambda place=place, sampling=sampling: said.update({
            place: Session(slots).complete(f"Number {place}", max_tokens=20,
                                           sampling=sampling).reply.text}))
            for place, sampling in enumerate(samplings)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return said

    with open_board("sim", image) as board, open_board("reference", image) as reference:
        said = answers(board)
        assert said == answers(reference)
        assert all(len(json.loads(said[place])) == 2 for place in range(3))
