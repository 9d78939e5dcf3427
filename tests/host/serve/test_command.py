"""``bitnet-host serve`` as it is typed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from bitnet_host.apps.cli import app
from typer.testing import CliRunner


def _serve(*arguments, **environment):
    return subprocess.run([sys.executable, "-m", "bitnet_host", "serve", *arguments], text=True,
                          capture_output=True, timeout=60, check=False,
                          env={**os.environ, **environment})


@pytest.mark.parametrize("arguments,sentence", [
    (["--host", "0.0.0.0"], "give --api-key too"),
    (["--host", "no.such.invalid"], "give --api-key too"),
    (["--host", "no.such.invalid", "--api-key", "k"], "is no address of this machine"),
    (["--port", "70000"], "'--port'"), (["--port", "x"], "'--port'"),
    (["--slots", "-1"], "'--slots'"),
    (["--target", "nothing", "--port", "0"], "target nothing is unknown"),
    (["--target", "reference", "--slots", "9", "--port", "0"], "number of slots"),
    (["--target", "serial:/dev/none", "--port", "0"], "there is no device /dev/none"),
    (["--model", "/none.bitnet", "--port", "0"], "/none.bitnet"),
    (["--chat-template", "/none.jinja", "--port", "0"], "/none.jinja"),
    (["--alias", "", "--port", "0"], "name of the model is empty"),
    (["--temperature", "-1", "--port", "0"], "'--temperature'"),
    (["--api-key", " ", "--port", "0"], "API key is empty"),
    (["--queue", "-4"], "'--queue'"),
])
def test_what_does_not_make_sense(arguments, sentence):
    done = _serve(*arguments)
    assert done.returncode == 2 and sentence in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_template_that_is_none(tmp_path):
    template = tmp_path / "t.jinja"
    template.write_text("{% for %}")
    done = _serve("--target", "reference", "--port", "0", "--chat-template", str(template))
    assert done.returncode == 2 and "chat template is not usable" in done.stderr


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = _serve("--target", "reference", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2 and "choose another --port" in done.stderr


def test_a_key_from_the_environment():
    """It is not for everybody who lists processes to see."""
    done = _serve("--host", "0.0.0.0", "--port", "0", "--target", "nothing", BITNET_API_KEY="k")
    assert "target nothing is unknown" in done.stderr


def test_help():
    said = CliRunner().invoke(app, ["serve", "--help"]).stdout
    assert "OpenAI, Ollama, llama-server and Anthropic" in said
