"""What ``bitnet-host plan`` says of a model: parts of the memory, whether it fits, and pictures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from bitnet_host.model.convert import convert, convert_file, make_header
from bitnet_host.model.header import KINDS, MEMORY_BYTES, MODEL_BASE, RESERVED
from bitnet_host.model.image import read_image
from bitnet_host.model.memory import PARTS, as_bar, as_svg, parts
from bitnet_host.model.plan import make_plan
from bitnet_host.model.sources.synthetic import parse_shape, synthetic_checkpoint
from bitnet_soc import boards
from gguf_files import write_gguf
from models import Shape, write_checkpoint

SMALL = "hidden=64,intermediate=128,layers=2,heads=2,kv_heads=1,head_dim=32,vocab=64,context=256"


def _plan(*arguments):
    done = subprocess.run([sys.executable, "-m", "bitnet_host", "plan", *map(str, arguments)],
                          capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def _json(*arguments):
    done = _plan(*arguments, "--json")
    return done.returncode, json.loads(done.stdout)


def test_everything_has_one_place():
    named = [kind for kinds in PARTS.values() for kind in kinds]
    assert sorted(named) == sorted([*KINDS, *RESERVED])


@pytest.mark.parametrize("shape", [SMALL, "tiny", "2b4t", "2b4t,context=4096", "2b4t,layers=60"])
@pytest.mark.parametrize("memory", [MEMORY_BYTES, 512 << 20])
def test_parts_fill_the_memory(shape, memory):
    header = make_header(parse_shape(shape), "base3")
    before = replace(header)
    plan = make_plan(header, memory_bytes=memory)
    found = {part.name: part.bytes for part in parts(header, plan)}
    assert header == before and all(size >= 0 for size in found.values())
    used = sum(size for name, size in found.items() if name != "free")
    assert used == MODEL_BASE + plan.total_bytes
    assert (sum(found.values()) == memory) == plan.fits and ("free" in found) == plan.fits
    # worked out by hand: a byte for an element of the embedding, and four for a row's scale
    config = parse_shape(shape)
    rows = config.vocab * config.hidden
    assert 0 <= found["embedding and head"] - rows - 4 * config.vocab < 2048
    cache = 2 * config.layers * config.kv_heads * plan.cache_tokens * (config.head_dim + 4)
    assert cache <= found["KV cache"] < 1.4 * cache + 8192 * config.layers * config.kv_heads


def test_an_image_lies_as_planned(tmp_path):
    """From a shape, a checkpoint, a GGUF file and the image: one plan."""
    folder = write_checkpoint(tmp_path / "model", Shape(64, 128, 2, 2, 1, 64, context=256))
    config = parse_shape(SMALL)
    file = write_gguf(tmp_path / "m.gguf", synthetic_checkpoint(config, 0.6, 1), "F32")
    image = tmp_path / "m.bitnet"
    convert_file(synthetic_checkpoint(config, 0.6, 1), image)
    plans = [_json(source)[1] for source in (folder, file, image, SMALL)]
    assert plans[0] == plans[1] == plans[2] == plans[3]
    header = read_image(image).header
    assert plans[0]["used_bytes"] == MODEL_BASE + header.total_bytes
    assert plans[0]["upload_bytes"] == header.ddr_bytes and plans[0]["fits"]
    assert plans[0]["cache_tokens"] == header.cache_tokens
    two = convert(synthetic_checkpoint(config, 0.6, 1), "2bit").header
    assert _json(SMALL, "--weights", "2bit")[1]["upload_bytes"] == two.ddr_bytes


def test_an_image_is_described_as_it_is(tmp_path):
    """Its cache, its packing and its rows were chosen when it was made."""
    image, config = tmp_path / "m.bitnet", parse_shape("tiny,layers=1")
    convert_file(synthetic_checkpoint(config, 0.6, 1), image, "2bit", cache_tokens=256)
    code, plan = _json(image)
    header = read_image(image).header
    assert code == 0 and plan["weights"] == "2bit" and plan["cache_tokens"] == 256
    assert plan["used_bytes"] == MODEL_BASE + header.total_bytes
    assert plan["upload_bytes"] == header.ddr_bytes
    for option in (["--weights", "2bit"], ["--context", 128], ["--cache", 256]):
        done = _plan(image, *option)
        assert done.returncode == 2 and "is an image and keeps" in done.stderr
    before = image.read_bytes()
    done = _plan(image, "--svg", image)
    assert done.returncode == 2 and image.read_bytes() == before


def test_what_fits_where():
    code, whole = _json("2b4t")
    assert code == 0 and whole["fits"] and whole["cache_tokens"] >= 2048 and whole["down_rows"]
    code, long = _json("2b4t,context=4096")
    assert code == 0 and long["fits"] and not long["down_rows"]
    code, small = _json("2b4t", "--board", "zedboard")
    assert code == 1 and not small["fits"] and small["memory_bytes"] == 512 << 20
    assert "it needs 790 MB: a board with more memory" in small["advice"]
    code, big = _json("2b4t,context=8192")
    longest = int(re.search(r"--context (\d+)", big["advice"])[1])
    assert code == 1 and _json("2b4t,context=8192", "--context", longest)[0] == 0
    assert _json("2b4t,context=8192", "--context", longest + 128)[0] == 1
    assert _json("2b4t", "--cache", 2048)[1]["cache_tokens"] == 2048
    code, much = _json("2b4t", "--cache", 16384)
    most = int(re.search(r"--cache (\d+)", much["advice"])[1])
    assert code == 1 and _json("2b4t", "--cache", most)[0] == 0
    assert _json("2b4t", "--cache", most + 512)[0] == 1
    for name in boards.names():
        assert _json("tiny", "--board", name)[1]["memory_bytes"] == boards.load(name).dram.bytes


def test_what_the_machine_cannot_run_is_said():
    done = _plan("2b4t,hidden=48")
    assert done.returncode == 1 and "cannot run it: hidden_size is 48" in done.stdout
    code, plan = _json("2b4t,hidden=48")
    assert code == 1 and plan["limit"].startswith("hidden_size is 48") and not plan["fits"]
    for shape in ("2b4t,kv_heads=0", "2b4t,vocab=0", "2b4t,hidden=0", "2b4t,layers=9999999",
                  "2b4t,context=9999999"):
        done = _plan(shape)
        assert done.returncode == 1 and "cannot run it" in done.stdout, done.stderr


@pytest.mark.parametrize("arguments, words", [
    (["nothing"], "cannot read nothing"), (["2b4t", "--board", "pynq"], "--board must be"),
    (["2b4t", "--context", "9999"], "--context must lie between"),
    (["2b4t", "--context", "-1"], "--context must lie between"),
    (["2b4t", "--weights", "int4"], "--weights must be"), (["2b4t,layers=x"], "layers=x"),
    (["tiny", "--cache", "-5"], "cannot hold -5 tokens"),
    (["tiny", "--svg", "/no/folder/x.svg"], "/no/folder/x.svg"),
])
def test_bad_arguments(arguments, words):
    done = _plan(*arguments)
    assert done.returncode == 2 and words in done.stderr and not done.stdout, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("shape", ["2b4t", "2b4t,layers=60"])
def test_pictures(tmp_path, shape):
    done = _plan(shape, "--svg", tmp_path / "memory.svg")
    bar = done.stdout.splitlines()[0]
    header = make_header(parse_shape(shape), "base3")
    plan = make_plan(header)
    found = parts(header, plan)
    assert bar == as_bar(found, MEMORY_BYTES).splitlines()[0]
    inside, beyond = bar.strip("|").split("|") if not plan.fits else (bar.strip("|"), "")
    total = max(MEMORY_BYTES, sum(part.bytes for part in found))
    letters = (inside + beyond.split("  ")[0])
    assert len(letters) == 64
    for letter, part in zip("amdesnkw-", found, strict=False):
        assert abs(letters.count(letter) - 64 * part.bytes / total) <= 1
    assert len(inside) == round(64 * MEMORY_BYTES / total)
    text = (tmp_path / "memory.svg").read_text()
    assert text == as_svg(found, MEMORY_BYTES, f"{shape}, context 2,048")
    root = ET.fromstring(text)
    bars = [rect for rect in root.iter("{http://www.w3.org/2000/svg}rect")
            if rect.get("height") == "36"]
    assert sum(float(rect.get("width")) for rect in bars) == pytest.approx(780, abs=6)
    assert ET.fromstring(as_svg(found, MEMORY_BYTES, "<&>")) is not None
