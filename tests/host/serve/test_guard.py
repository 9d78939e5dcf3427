"""Who may use the server, and what is too much for it."""

from __future__ import annotations

import json
import socket
import time

import httpx
import pytest
from bitnet_host.errors import BadArgument
from bitnet_host.serve.run import check, listen
from bitnet_host.serve.settings import Settings
from serving import quick_image, serving

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
KEY = "sk-test-ä"


@pytest.fixture(scope="module")
def plain():
    with serving(quick_image(), slots=2, patience=0.5, most_bytes=10_000) as (url, _):
        yield url


@pytest.fixture(scope="module")
def locked():
    with serving(quick_image(), slots=2, keys=("another", KEY)) as (url, _):
        yield url


def _chat(url, **headers):
    given = {name.replace("_", "-"): value.encode() for name, value in headers.items()}
    return httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers=given)


def test_only_with_a_key_for_other_machines():
    with pytest.raises(BadArgument, match="give --api-key too"):
        check(Settings(host="0.0.0.0"))
    with pytest.raises(BadArgument, match="is empty"):
        check(Settings(keys=("good", " ")))
    for settings in (Settings(host="0.0.0.0", keys=("k",)), Settings(host="::1"),
                     Settings(host="localhost"), Settings(host="127.3.2.1")):
        check(settings)


def test_sockets_that_are_not_to_be_had():
    with listen(Settings(port=0)) as listener:
        port = listener.getsockname()[1]
        listener.listen()
        with pytest.raises(BadArgument, match="is in use"):
            listen(Settings(port=port))
    with pytest.raises(BadArgument, match="is no address of this machine"):
        listen(Settings(host="no.such.name.invalid"))
    with pytest.raises(BadArgument, match="cannot listen on"):
        listen(Settings(host="203.0.113.7"))


@pytest.mark.parametrize("headers,status", [
    ({}, 401), ({"authorization": "Bearer wrong"}, 401), ({"authorization": f"Basic {KEY}"}, 401),
    ({"authorization": "Bearer sk-test"}, 401), ({"x_api_key": "wrong"}, 401),
    ({"authorization": f"Bearer {KEY}"}, 200), ({"authorization": "bearer another"}, 200),
    ({"x_api_key": KEY}, 200), ({"authorization": "Bearer"}, 401),
])
def test_keys(locked, headers, status):
    response = _chat(locked, **headers)
    assert response.status_code == status
    if status == 401:
        assert response.json()["error"]["type"] == "authentication_error"


def test_what_needs_no_key(locked):
    for path, status in (("/health", 200), ("/v1/health", 200), ("/", 200), ("/props", 401),
                         ("/v1/models", 401), ("/metrics", 401), ("/api/tags", 401),
                         ("/slots", 401), ("//health", 401), ("/health/x", 401)):
        assert httpx.get(locked + path).status_code == status, path


@pytest.mark.parametrize("host,status", [
    ("localhost:8080", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("127.1.2.3:99", 200),
    ("evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1.evil.example:80", 403),
    ("127.a.b.c", 403), ("", 403),
])
def test_names_that_are_made_to_mean_this_machine(plain, locked, host, status):
    """A page elsewhere whose name suddenly points here sends that name. A key does without."""
    assert _chat(plain, host=host).status_code == status
    assert _chat(locked, host=host or "x", x_api_key=KEY).status_code == 200


def test_a_health_check_has_no_name(plain):
    with _connection(plain) as line:
        line.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert b" 200 " in _until_closed(line).split(b"\r\n")[0]


@pytest.mark.parametrize("origin,status", [
    ("http://localhost:3000", 200), ("http://127.0.0.1", 200), ("https://[::1]:3000", 200),
    ("http://evil.example", 403), ("http://localhost.evil.example", 403), ("null", 403),
    ("file://", 403), ("http://127.0.0.1.evil.example", 403), ("http://[", 403),
])
def test_web_pages_elsewhere(plain, locked, origin, status):
    response = _chat(plain, origin=origin)
    assert response.status_code == status
    assert (response.headers.get("access-control-allow-origin") == origin) == (status == 200)
    asked = httpx.options(f"{plain}/v1/chat/completions", headers={
        "Origin": origin, "Access-Control-Request-Method": "POST"})
    assert ("access-control-allow-origin" in asked.headers) == (status == 200)
    with_key = _chat(locked, origin=origin, x_api_key=KEY)
    assert with_key.status_code == 200
    assert with_key.headers["access-control-allow-origin"] == origin


def test_named_pages():
    with serving(quick_image(), slots=1, origins=("https://my.page",)) as (url, _):
        assert _chat(url, origin="https://my.page").status_code == 200
        assert _chat(url, origin="https://my.page.evil").status_code == 403
        assert _chat(url, origin="http://localhost:3000").status_code == 403


# -- limits ----------------------------------------------------------------------------------------

def _connection(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def _until_closed(line):
    data = b""
    while True:
        part = line.recv(65536)
        if not part:
            return data
        data += part


def test_a_request_that_is_too_long(plain):
    body = json.dumps(CHAT | {"user": "x" * 20_000})
    assert httpx.post(f"{plain}/v1/chat/completions", content=body).status_code == 413

    def pieces():
        for _ in range(30):
            yield b" " * 1000
    assert httpx.post(f"{plain}/v1/chat/completions", content=pieces()).status_code == 413
    with _connection(plain) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
        assert b" 400 " in _until_closed(line).split(b"\r\n")[0]
    assert _chat(plain).status_code == 200


@pytest.mark.parametrize("sent", [
    b"", b"POST /v1/chat/comp", b"GET /health HTTP/1.1\r\nHost: local",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea",
])
def test_a_head_that_does_not_end(plain, sent):
    """The connection is closed in time, and none that is answered."""
    start = time.monotonic()
    with _connection(plain) as line:
        line.sendall(sent)
        _until_closed(line)
    assert 0.3 < time.monotonic() - start < 5


def test_a_body_that_does_not_end(plain):
    with _connection(plain) as line:
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                     b"Content-Length: 100\r\n\r\n{")
        assert b" 408 " in line.recv(65536).split(b"\r\n")[0]


def test_a_reader_that_does_not_read(plain):
    """Its answer ends, and what it holds is given back."""
    body = json.dumps({"messages": CHAT["messages"], "max_tokens": 230, "stream": True,
                       "logprobs": True, "top_logprobs": 20, "n": 8, "temperature": 2}).encode()
    with _connection(plain) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(1.5)
        limit = time.monotonic() + 60
        while _processing(plain) and time.monotonic() < limit:
            time.sleep(0.1)
        assert not _processing(plain)


def _processing(url):
    text = httpx.get(f"{url}/metrics").text
    return int(text.split("\nllamacpp:requests_processing ")[1].split()[0])


def test_an_unread_body_does_not_spoil_the_connection(locked):
    """What was refused before its body was read leaves a line that goes on."""
    with httpx.Client() as client:
        for _ in range(3):
            wrong = client.post(f"{locked}/v1/chat/completions",
                                json=CHAT | {"user": "x" * 100_000})
            assert wrong.status_code == 401
            right = client.post(f"{locked}/v1/chat/completions", json=CHAT,
                                headers={"x-api-key": KEY.encode()})
            assert right.status_code == 200


def test_a_body_that_is_too_long_to_be_passed_over(plain):
    """Who is refused and goes on sending is told that the line ends, and it does."""
    with _connection(plain) as line:
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: evil.example\r\n"
                     b"Content-Length: 1000000\r\n\r\n" + b"x" * 20_000)
        answer = _until_closed(line)
    assert b" 403 " in answer.split(b"\r\n")[0] and b"\r\nConnection: close\r\n" in answer


def test_nothing_that_was_typed_is_logged(capfd, caplog):
    with serving(quick_image(), slots=1) as (url, _):
        secret = "my secret cat"
        for body in ({"messages": [{"role": "user", "content": secret}], "max_tokens": 2},
                     {"messages": [{"role": "user", "content": secret}], "temperature": "x"},
                     {"messages": [{"role": "user", "content": secret * 2000}]}):
            httpx.post(f"{url}/v1/chat/completions", json=body)
    shown = capfd.readouterr()
    assert secret not in shown.out + shown.err + caplog.text
