"""Three servers behind HAProxy, as deploy/haproxy.cfg has it; one is killed in the middle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from serving import answering

CONFIGURATION = Path(__file__).parents[3] / "deploy/haproxy.cfg"
_SERVER = f"""import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import serving
with serving.serving(serving.quick_image(), port=int(sys.argv[1]), names=(sys.argv[2],)):
    print("up", flush=True)
    sys.stdin.read()
"""


def _free_ports(count):
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in taken]


def _start(port, name):
    server = subprocess.Popen([sys.executable, "-c", _SERVER, str(port), name], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout.readline() == "up\n"
    return server


@pytest.fixture
def balanced():
    """The balancer's address, and the servers by name."""
    *ports, front = _free_ports(4)
    servers = {f"server{n}": _start(port, f"server{n}") for n, port in enumerate(ports)}
    places = {f"BITNET_{n + 1}": f"127.0.0.1:{port}" for n, port in enumerate(ports)}
    balancer = subprocess.Popen(["haproxy", "-db", "-f", CONFIGURATION], stderr=subprocess.PIPE,
                                env={**os.environ, **places, "BITNET_BIND": f"127.0.0.1:{front}"})
    url = f"http://127.0.0.1:{front}"
    limit = time.monotonic() + 20
    while True:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                break
        except httpx.HTTPError:
            assert time.monotonic() < limit and balancer.poll() is None
        time.sleep(0.1)
    yield url, servers
    for process in (balancer, *servers.values()):
        process.kill()
        process.wait()


class Conversation:
    """Turns of a conversation: what was said, and by which server."""

    def __init__(self, url, name, system=False):
        self.url, self.servers, self.cached = url, [], []
        self.messages = [{"role": "system", "content": "Short."}] if system else []
        self.messages += [{"role": "user", "content": f"I am {name}."}]

    def turn(self, client, most=6):
        response = client.post(f"{self.url}/v1/chat/completions", json={
            "messages": self.messages, "max_tokens": most, "temperature": 0}).raise_for_status()
        answer = response.json()
        self.servers.append(answer["model"])
        self.cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
        self.messages += [answer["choices"][0]["message"], {"role": "user", "content": "Go on."}]


def test_a_server_that_is_killed(balanced):
    """Conversations stay where they are held; those of the killed one go on elsewhere, word by
    word what they would have been."""
    url, servers = balanced
    talks = [Conversation(url, f"number {n}", n % 2 > 0) for n in range(9)]

    def run(talk):
        with httpx.Client(timeout=60) as client:
            for turn in range(5):
                talk.turn(client)
                if turn == 1:
                    meet.wait()
                    meet.wait()

    meet = threading.Barrier(len(talks) + 1)
    threads = [threading.Thread(target=run, args=(talk,)) for talk in talks]
    for thread in threads:
        thread.start()
    meet.wait()
    first = {talk.servers[0] for talk in talks}
    assert first == set(servers)
    for talk in talks:
        assert talk.servers[0] == talk.servers[1] and talk.cached[1] > talk.cached[0]
    victim = talks[0].servers[0]
    servers[victim].send_signal(signal.SIGKILL)
    meet.wait()
    for thread in threads:
        thread.join()
    for talk in talks:
        assert len(talk.servers) == 5 and victim not in talk.servers[2:]
        assert len(set(talk.servers[2:])) == 1
        if talk.servers[0] != victim:
            assert len(set(talk.servers)) == 1
    with answering() as answer:
        for talk in talks:
            for place in range(len(talk.messages) - 2, 0, -2):
                right = answer(talk.messages[:place], 6).text
                assert talk.messages[place]["content"] == right


def test_an_answer_in_the_middle(balanced):
    """A request whose server dies before it has answered is answered by another."""
    url, servers = balanced
    talk, said = Conversation(url, "late"), []
    with httpx.Client(timeout=60) as client:
        talk.turn(client)

        def ask():
            talk.turn(client, 180)
            said.append(talk.messages[-2]["content"])

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.4)
        servers[talk.servers[0]].send_signal(signal.SIGKILL)
        thread.join()
    assert said and talk.servers[1] != talk.servers[0]
    with answering() as answer:
        assert answer(talk.messages[:3], 180).text == said[0]
