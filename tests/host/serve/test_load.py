"""A thousand connections at a time, and more requests than there is room for."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from bitnet_host import Session, open_board
from serving import quick_image, serving

CONNECTIONS = 1000


@pytest.fixture
def process(tmp_path):
    """A server of its own, whose memory can be looked at: its address and its number."""
    script = tmp_path / "server.py"
    script.write_text(f"""import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import serving, threading
with serving.serving(serving.quick_image(), port=int(sys.argv[1])) as (url, pool):
    print(url, flush=True)
    sys.stdin.read()
""")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, script, str(port)], stdin=subprocess.PIPE, text=True,
                          stdout=subprocess.PIPE) as server:
        yield server.stdout.readline().strip(), server.pid
        server.stdin.close()
        assert server.wait(30) == 0


def _memory(pid):
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _ask_all(url, texts):
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=300) as client:
        async def ask(text):
            response = await client.post("/v1/completions", json={
                "prompt": text, "max_tokens": 3, "temperature": 0})
            return response.status_code, response.json()["choices"][0]["text"]
        return await asyncio.gather(*(ask(text) for text in texts))


def test_a_thousand_connections(process):
    """Each gets its own answer, and the second thousand takes no more memory."""
    url, pid = process
    kinds = [f"Word {n}" for n in range(20)]
    with open_board("reference", quick_image()) as board:
        session = Session(board)
        right = {text: session.complete(text, max_tokens=3).reply.text for text in kinds}
    texts = [kinds[n % len(kinds)] for n in range(CONNECTIONS)]
    sizes = []
    for _ in range(3):
        answers = asyncio.run(_ask_all(url, texts))
        assert answers == [(200, right[text]) for text in texts]
        sizes.append(_memory(pid))
    assert sizes[2] - sizes[1] < 4 << 20, sizes


def _post(client, **more):
    return client.post("/v1/chat/completions", json={
        "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200} | more)


def _busy(url, count):
    """Starts so many answers that take long."""
    lines = []
    body = b'{"prompt": "Hi", "max_tokens": 240}'
    for _ in range(count):
        host, port = url.removeprefix("http://").split(":")
        line = socket.create_connection((host, int(port)))
        line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d"
                     b"\r\n\r\n" % len(body) + body)
        lines.append(line)
    limit = time.monotonic() + 10
    while not all(f"\nllamacpp:requests_{state}" in httpx.get(f"{url}/metrics").text
                  for state in ("processing 1", f"deferred {count - 1}")):
        assert time.monotonic() < limit
        time.sleep(0.01)
    return lines


def test_a_full_queue():
    """It says when to come back; others are answered."""
    with (serving(quick_image(), slots=1, queue=2) as (url, _),
          httpx.Client(base_url=url, timeout=60) as client):
        lines = _busy(url, 3)
        for stream in (False, True):
            refused = _post(client, stream=stream)
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
            assert refused.json()["error"]["type"] == "unavailable_error"
        for line in lines:
            assert b" 200 " in line.recv(100)
            line.close()
        assert _post(client, max_tokens=1).status_code == 200


def test_a_request_for_more_answers_than_may_wait():
    """Also while slots are free: nothing of it is begun."""
    with (serving(quick_image(), slots=2, queue=3) as (url, _),
          httpx.Client(base_url=url, timeout=60) as client):
        for count, status in ((6, 503), (5, 200), (100_000, 503)):
            body = {"prompt": ["a"] * count, "max_tokens": 1}
            assert client.post("/v1/completions", json=body).status_code == status


def test_who_waits_too_long():
    """Streams are kept alive, and then told in words; others have a status."""
    with (serving(quick_image(), slots=1, queue_seconds=2, silence=0.1) as (url, _),
          httpx.Client(base_url=url, timeout=60) as client):
        for stream in (False, True):
            lines = _busy(url, 3)
            late = _post(client, stream=stream)
            assert "too many requests wait" in late.text
            if stream:
                assert late.status_code == 200 and late.text.startswith(": still here\n\n")
            else:
                assert late.status_code == 503 and late.headers["retry-after"]
            for line in lines:
                line.close()


def test_a_stream_that_waits_is_kept_alive():
    """In each API's own way: Ollama's lines are objects."""
    with (serving(quick_image(), slots=1, silence=0.1) as (url, _),
          httpx.Client(base_url=url, timeout=60) as client):
        lines = _busy(url, 1)
        assert _post(client, stream=True, max_tokens=2).text.startswith(": still here\n\n")
        for line in lines:
            line.close()
        lines = _busy(url, 1)
        said = client.post("/api/generate", json={"model": "x", "prompt": "Hi",
                                                  "options": {"num_predict": 2}}).text
        parts = [httpx.Response(200, content=line).json() for line in said.splitlines()]
        assert parts[0]["response"] == "" and not parts[0]["done"] and parts[-1]["done"]
        for line in lines:
            line.close()


def test_the_server_ends_in_time(tmp_path):
    """With an answer under way, on SIGTERM and on Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen([sys.executable, "-m", "bitnet_host", "serve", "--target",
                               "reference", "--port", "0"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as server:
            url = server.stdout.readline().split()[-1]
            with httpx.stream("POST", f"{url}/v1/completions", json={
                    "prompt": "Hi", "max_tokens": 200, "stream": True}, timeout=60) as response:
                next(response.iter_lines())
                server.send_signal(number)
                start = time.monotonic()
                server.wait(30)
            assert time.monotonic() - start < 15
            assert "Traceback" not in server.stderr.read()
