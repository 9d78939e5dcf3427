"""What people start servers with: it has to fit the server, and what it is built from has to be
there. `make container` builds the container."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
CONTAINER = (ROOT / "Containerfile").read_text().replace("\\\n", " ")


def _refused(arguments):
    """What the host tool says to a command whose target is nothing, with a key as they have it."""
    done = subprocess.run([sys.executable, "-m", "bitnet_host", *arguments], text=True, timeout=60,
                          capture_output=True, env=os.environ | {"BITNET_API_KEY": "k"})
    assert done.returncode == 2
    return done.stderr


def _expanded(text, values):
    """${NAME}, ${NAME:-default} and ${NAME:?why} as compose has them."""
    def value(found):
        name, _, rest = found[1].partition(":")
        assert name in values or rest.startswith("-"), f"{name} is not set"
        return values.get(name, rest[1:])
    return re.sub(r"\$\{([^}]*)\}", value, text)


def test_the_composed_server():
    """Its arguments are the host tool's; without a key it is not started."""
    server = COMPOSE["services"]["bitnet"]
    asked = [_expanded(part, {"BITNET_TARGET": "nothing"}) for part in server["command"]]
    assert "target nothing is unknown" in _refused(asked)
    assert [_expanded(part, {}) for part in server["command"]][-1] == "sim"
    with pytest.raises(AssertionError, match="BITNET_API_KEY is not set"):
        _expanded(server["environment"]["BITNET_API_KEY"], {})
    assert (ROOT / server["build"]["dockerfile"]).is_file()
    check = server["healthcheck"]["test"]
    assert check[:2] == ["CMD", "python3"] and "8080/health" in check[-1]
    compile(check[-1], "healthcheck", "exec")


def test_the_composed_page():
    """It finds the server by its name and port, with the same key, and nobody else finds it."""
    page = COMPOSE["services"]["open-webui"]
    given = {name: _expanded(value, {"BITNET_API_KEY": "k"})
             for name, value in page["environment"].items()}
    assert given["OPENAI_API_BASE_URL"] == "http://bitnet:8080/v1"
    assert given["OPENAI_API_KEY"] == "k" and given["ENABLE_OLLAMA_API"] == "false"
    assert page["depends_on"]["bitnet"]["condition"] == "service_healthy"
    assert page["volumes"][0].partition(":")[0] in COMPOSE["volumes"]
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_container():
    """It installs what the Makefile installs, is not root's, and starts the server."""
    makefile = (ROOT / "Makefile").read_text()
    needed = re.search(r"^APT_PACKAGES := (.*)$", makefile, re.M)[1].split()
    installed = re.search(r"install -y -qq --no-install-recommends\s+(.*)", CONTAINER)[1].split()
    assert set(needed) <= set(installed)
    assert re.search(r"^USER (?!root)", CONTAINER, re.M)
    command = re.findall(r"^CMD (.*)$", CONTAINER, re.M)[-1]
    assert "target nothing is unknown" in _refused([*yaml.safe_load(command), "--target",
                                                    "nothing"])
    ignored = (ROOT / ".containerignore").read_text().split()
    assert {".git", ".venv", "build"} <= set(ignored)


def test_the_unit():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(ROOT / "deploy" / "bitnet-host.service")
    command = shlex.split(unit["Service"]["ExecStart"])
    assert Path(command[0]).name == "bitnet-host"
    asked = [_expanded(part, {"BITNET_TARGET": "nothing"}) for part in command[1:]]
    assert "target nothing is unknown" in _refused(asked)
