"""The command line: results on the golden model, and one clear sentence with exit code 2 for
everything that can go wrong."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import zlib

import numpy as np
import pytest
from bitnet_host.apps.cli import main
from bitnet_host.errors import BadModel
from bitnet_host.golden.reference import ReferenceModel
from bitnet_host.model.checkpoint import Checkpoint
from bitnet_host.model.convert import convert as convert_checkpoint
from bitnet_host.model.image import read_image, write_image
from bitnet_host.model.sources.bundled import BUNDLED
from bitnet_host.model.sources.synthetic import parse_shape
from conftest import ROOT
from models import Shape, write_checkpoint


def run(*arguments, env=None, timeout=120):
    return subprocess.run([sys.executable, "-m", "bitnet_host", *map(str, arguments)],
                          capture_output=True, text=True, timeout=timeout,
                          env=env)


def refused(*arguments, saying, env=None):
    """Exit code 2, exactly one sentence on stderr, no traceback, nothing on stdout."""
    done = run(*arguments, env=env)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("bitnet-host: "), done.stderr
    assert saying in lines[0], done.stderr
    assert not done.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "tiny.img"
    done = run("convert", BUNDLED, "-o", path)
    assert done.returncode == 0, done.stderr
    return path


def test_chat_json():
    done = run("chat", "--target", "reference", "--prompt", "Tell me a story about a dog.",
               "--max-tokens", 5, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["token_ids"] == [423, 430, 262, 398, 15] and result["text"] == "Once upon a time,"
    assert result["prompt_tokens"] == 15 and result["stop_reason"] == "length"
    assert (set(result) == {"text", "token_ids", "prompt_tokens", "cached_tokens", "stop_reason",
                            "prefill_cycles",
                           "decode_cycles_per_token",
                           "clock_hz", "tokens_per_second", "operators"})


def test_interactive_chat():
    done = subprocess.run([sys.executable, "-m", "bitnet_host", "chat", "--target", "reference",
                           "--max-tokens", "4"], text=True,
                          input="/stats\nHello!\n/stats\n/reset\n/what\nHello!\n/quit\n",
                          capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert ("Nothing has been said yet" in done.stdout
            and "prompt tokens, 4 tokens (length)" in done.stdout)
    assert "conversation is empty" in done.stdout and "/what" not in done.stdout


def test_ctrl_c_stops_the_answer_only():
    process = subprocess.Popen([sys.executable, "-m", "bitnet_host", "chat", "--target",
                                "reference"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdin.write(b"Tell me a story about a dog.\n")
    process.stdin.flush()
    seen = b""
    while b"Once upon" not in seen:
        byte = process.stdout.read(1)
        assert byte, seen
        seen += byte
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(b"/stats\n/quit\n", timeout=60)
    assert process.returncode == 0 and b"tokens (cancel)" in output


def test_raw_prompt_and_seed():
    answers = [run("chat",
                   "--target",
                   "reference", "--raw",
                   "--prompt", "Once upon a time", "--max-tokens", 8, "--temperature", 0.9,
                   "--seed", seed, "--json").stdout for seed in (1, 1, 3)]
    assert answers[0] == answers[1] != answers[2]
    assert json.loads(answers[0])["prompt_tokens"] == 5


def test_info_and_score(image, tmp_path):
    fields = json.loads(run("info", image, "--json").stdout)
    assert fields["hidden"] == 256 and fields["tensors"] == 54 and len(fields["tensor_table"]) == 54
    assert "hidden        256" in run("info", image).stdout
    (tmp_path / "ids.json").write_text("[0, 807, 29]")
    done = run("score", "--target", "reference", "--model", image, "--tokens",
               tmp_path / "ids.json", "-o", tmp_path / "out.npy")
    assert done.returncode == 0, done.stderr
    model = ReferenceModel(read_image(image))
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"),
                                  np.stack([model.forward(t) for t in (0, 807, 29)]))


def test_convert_with_a_shorter_context(tmp_path):
    done = run("convert", BUNDLED, "-o", tmp_path / "short.img", "--context", 32)
    assert done.returncode == 0 and "KV cache for 1024 tokens" in done.stdout, done.stderr
    info = json.loads(run("info", tmp_path / "short.img", "--json").stdout)
    assert (info["context"], info["cache_tokens"]) == (32, 8 * 128)
    few = run("convert", BUNDLED, "-o", tmp_path / "few.img", "--context", 32, "--cache", 200)
    assert few.returncode == 0 and "KV cache for 256 tokens" in few.stdout, few.stderr
    for cache, saying in ((-1, "cannot hold -1 tokens"), (10**9, "a smaller cache")):
        refused = run("convert", BUNDLED, "-o", tmp_path / "no.img", "--cache", cache)
        assert (refused.returncode == 2 and saying in refused.stderr
                and not (tmp_path / "no.img").exists()), refused.stderr
    refused = run("convert", BUNDLED, "-o", tmp_path / "long.img", "--context", 99999)
    assert (refused.returncode == 2 and "the context must lie between 1 and 256" in refused.stderr
            and not (tmp_path / "long.img").exists())


@pytest.mark.parametrize("options,saying", [
    (["--temperature", "-1"], "temperature must"), (["--temperature", "nan"], "temperature must"),
    (["--temperature",
      "0.001"], "too small"), (["--top-p", "0"], "top_p must"), (["--top-p", "1.5"], "top_p must"),
    (["--top-k", "-1"], "top_k must"), (["--top-k", "65"], "top_k must"),
    (["--seed", "-1"],
     "seed must"),
    (["--max-tokens", "0"], "--max-tokens"), (["--target", "moon"], "choose sim, reference"),
    (["--target", "udp://"], "udp://HOST"),
    (["--target", "udp://127.0.0.1:99999"], "udp://HOST"), (["--prompt", "\udcff"], "UTF-8"),
    (["--target", "serial:/dev/nothing"], "no device"), (["--model", "/nowhere"], "cannot read"),
    (["--prompt", "word " * 300], "context of 256"),
])
def test_bad_chat_options(options, saying):
    prompt = [] if "--prompt" in options else ["--prompt", "Hello!"]
    target = [] if "--target" in options else ["--target", "reference"]
    refused("chat", *target, *prompt, *options, saying=saying)


def test_raw_without_prompt():
    refused("chat", "--raw", saying="--raw needs --prompt")


@pytest.mark.parametrize("damage,saying", [
    (lambda d: d[:len(d) // 2], "truncated"), (lambda d: d[:30], "not a model image"),
    (lambda d: b"", "not a model image"),
    (lambda d: b"PK" + d[2:], "not a model image"), (lambda d: d[:-100] + bytes(100), "damaged"),
    (lambda d: d[:70] + b"\0" + d[71:], "damaged"), (lambda d: d[:9] + b"\7" + d[10:], "damaged"),
    (lambda d: d + b"x", "truncated or too long"),
])
def test_damaged_images(image, tmp_path, damage, saying):
    bad = tmp_path / "bad.img"
    bad.write_bytes(damage(image.read_bytes()))
    refused("chat", "--target", "reference", "--model", bad, "--prompt", "Hi", saying=saying)
    refused("info", bad, saying=saying)


def test_image_of_another_version(image, tmp_path):
    data = bytearray(image.read_bytes())
    struct.pack_into("<I", data, 8, 99)
    struct.pack_into("<I", data, 32, 0)
    struct.pack_into("<I", data, 32, zlib.crc32(bytes(data[:64])))
    (tmp_path / "new.img").write_bytes(bytes(data))
    refused("info", tmp_path / "new.img", saying="image format 99")


def _edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("changes,saying", [
    ({"model_type": "llama", "hidden_act": "silu"}, "has no place in a model of this kind"),
    ({"model_type": "gpt2"}, "describes a gpt2 model"), ({"hidden_act": "silu"}, "only relu2"),
    ({"tie_word_embeddings": False}, "no lm_head.weight"),
    ({"hidden_size": 128}, "config.json says"), ({"num_hidden_layers": 5}, "is missing"),
    ({"num_attention_heads": 0}, "positive whole number"),
    ({"rms_norm_eps": "x"},
     "rms_norm_eps"),
    ({"num_hidden_layers": "2"}, "num_hidden_layers"), ({"intermediate_size": None}, "None"),
    ({"max_position_embeddings": -4}, "positive whole number"),
    ({"eos_token_id": -1}, "eos_token_id"),
    ({"quantization_config": "bitnet"}, "has an object there"),
    ({"quantization_config": {"quant_method": "bitnet", "quantization_mode": "online"}},
     "only the linear_class autobitlinear"),
    ({"head_dim": 16}, "config.json says"),
])
def test_unusable_checkpoints(tmp_path, changes, saying):
    folder = write_checkpoint(tmp_path / "model", Shape(64, 96, 1, 2, 1, 104))
    _edit_config(folder, **changes)
    refused("convert", folder, "-o", tmp_path / "out.img", saying=saying)
    assert sorted(p.name
                  for p in tmp_path.iterdir()) == ["model"], "something half-written was left"


def test_shapes_that_the_machine_refuses(tmp_path):
    folder = write_checkpoint(tmp_path / "a", Shape(80, 96, 1, 1, 1, 104))
    refused("convert", folder, "-o", tmp_path / "out.img", saying="multiple of 32")
    folder = write_checkpoint(tmp_path / "b", Shape(160, 96, 1, 5, 2, 104))
    refused("convert", folder, "-o", tmp_path / "out.img", saying="cannot be shared among 2")
    folder = write_checkpoint(tmp_path / "d", Shape(32, 32, 65, 1, 1, 104))
    refused("convert", folder, "-o", tmp_path / "out.img", saying="65 layers")
    folder = write_checkpoint(tmp_path / "c", Shape(64, 96, 1, 2, 1, 104, context=1 << 20))
    refused("convert", folder, "-o", tmp_path / "out.img", "--context", "20000",
            saying="choose a shorter context")


def test_a_context_that_does_not_fit_is_shortened(tmp_path):
    """To the longest that the scratchpad has room for; what the model was made for stays known."""
    folder = write_checkpoint(tmp_path / "c", Shape(64, 96, 1, 2, 1, 104, context=1 << 20))
    done = run("convert", folder, "-o", tmp_path / "out.img")
    assert done.returncode == 0, done.stderr
    header = read_image(tmp_path / "out.img").header
    assert header.context % 256 == 0 and 16383 - 256 < header.context <= 16383
    assert f"context {header.context:,}" in done.stdout
    assert read_image(tmp_path / "out.img").meta["config"]["trained_context"] == 1 << 20


def test_model_larger_than_memory():
    """A long enough KV cache overfills 1 GB."""
    config = parse_shape("hidden=256,intermediate=256,layers=64,heads=8,kv_heads=8,head_dim=256,"
                         "vocab=64,context=8192")
    with pytest.raises(BadModel, match="of the board's 1024 MB: choose a smaller model"):
        convert_checkpoint(Checkpoint(config, np.zeros((64, 256), np.float32),
                                      np.zeros(256, np.float32), []))


def test_damaged_checkpoints(tmp_path):
    folder = write_checkpoint(tmp_path / "model", Shape(64, 96, 1, 2, 1, 104))
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:len(data) // 2])
    refused("convert", folder, "-o", tmp_path / "x.img", saying="truncated or damaged")
    (folder / "model.safetensors").unlink()
    refused("convert", folder, "-o", tmp_path / "x.img", saying="no .safetensors")
    (folder / "config.json").write_text("{")
    refused("convert", folder, "-o", tmp_path / "x.img", saying="not valid JSON")
    refused("convert", tmp_path / "none", "-o", tmp_path / "x.img", saying="cannot read")
    refused("convert", BUNDLED, "-o", tmp_path / "no" / "x.img", saying="cannot write")
    refused("convert", BUNDLED, "-o", tmp_path / "x.img", "--weights", "3bit",
            saying="base3 or 2bit")
    refused("chat", "--target", "reference", "--prompt", "Hi", "--model",
            write_checkpoint(tmp_path / "n", Shape(64, 96, 1, 2, 1, 104)),
            saying="no tokenizer")


@pytest.mark.parametrize("text,saying",
                         [("{}", "JSON list"),
                          ("[1.5]", "JSON list"), ("x", "not JSON"), ("[]", "empty"),
                                         ("[99999]",
                                          "between 0 and 2047"),
                          (json.dumps([0] * 300), "context of 256")])
def test_bad_score_files(tmp_path, text, saying):
    (tmp_path / "ids.json").write_text(text)
    refused("score", "--target", "reference", "--tokens", tmp_path / "ids.json", "-o",
            tmp_path / "o.npy", saying=saying)
    assert not (tmp_path / "o.npy").exists()


def test_bad_bench_arguments():
    refused("bench", "--gemv", "big", saying="ROWSxCOLUMNS")
    refused("bench", "--gemv", "10x99999", saying="columns")
    refused("bench", "--ddr", "fast", saying="ug585 or conservative")
    refused("bench", "--context", "999", saying="context of 256 tokens")
    refused("bench", "--tokens", "0", saying="--tokens must lie between 1 and 1000")
    refused("bench", "--head", "none", saying="screened or full")
    refused("bench", "--slots", "9", saying="--slots must lie between 1 and 8")
    refused("bench", "--slots", "2", "--prefill", "8", saying="is not for --prefill")
    refused("bench", "--cached", "8", saying="--cached is how many tokens stand before")
    refused("bench", "--prefill", "100", "--cached", "200", saying="context of 256 tokens")
    refused("bench", "--shape", "7b", saying="choose 2b4t, ")
    refused("bench", "--shape", "tiny,width=8", saying="width=8 is not one of")
    refused("bench", "--shape", "hidden=64", saying="lacks intermediate")
    refused("bench", "--shape", "tiny,hidden=100", saying="multiple of 32")
    refused("bench",
            "--shape", "tiny", "--gate-zeros", "1.5", saying="gate_zeros must lie between 0 and 1")
    refused("bench", "--shape", "tiny", "--seed", "-1", saying="seed must lie between 0")
    refused("bench", "--shape", "tiny,heads=0", saying="0 query and 2 key")
    refused("bench", "--shape", "tiny,vocab=2000000", saying="ranks 1 to 1048576 tokens")
    refused("bench", "--clock", "inf", saying="--clock between 0 and 1e12")
    refused("bench", "--check", saying="--check takes a synthetic --shape")
    refused("bench",
            "--shape", "tiny", "--check", "--all-rows", saying="--check takes a synthetic --shape")


def test_bench_without_room_for_its_model(tmp_path):
    (tmp_path / "bench").write_text("a file where a folder belongs")
    refused("bench",
            "--shape", "tiny",
            saying="cannot write", env=os.environ | {"BITNET_BUILD": str(tmp_path)})


def test_simulator_not_built(tmp_path):
    refused("chat",
            "--prompt", "Hi",
            saying="run `make build`", env=os.environ | {"BITNET_BUILD": str(tmp_path)})


def test_board_not_answering():
    refused("chat", "--target", "udp://127.0.0.1:9", "--prompt", "Hi", saying="does not answer")


def test_write_image_replaces_whole_files(image, tmp_path):
    target = tmp_path / "copy.img"
    shutil.copy(image, target)
    write_image(read_image(image), target)
    assert target.read_bytes() == image.read_bytes() and list(tmp_path.iterdir()) == [target]


# -- what people type ------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments,saying", [
    (["chat",
      "--temprature", "1"],
     "--temprature"), (["chat", "--max-tokens", "many"], "--max-tokens"), (["sing"], "sing"),
    (["convert"], "SRC"),
    (["chat", "--max-tokens", "4294967296"], "--max-tokens must lie between"), (["info"], "IMAGE"),
    (["convert", BUNDLED,
      "-o", ""], "names no file"), (["chat", "--json"], "--json needs --prompt"),
    (["chat", "--prompt",
      "a", "--prompts", "b"], "not both"), (["chat", "--prompts", "/nowhere"], "cannot read"),
    (["chat", "--target",
      "reference", "--prompt", "Hi", "--system", "word " * 300], "system prompt alone is too long"),
])
def test_wrong_options_are_one_sentence(arguments, saying):
    refused(*arguments, saying=saying)


def test_help_version_and_log():
    assert "chat" in run("-h").stdout and "--top-p" in run("chat", "-h").stdout
    assert re.fullmatch(r"bitnet-host \d+\.\d+\.\d+\n", run("--version").stdout)
    assert (run("chat",
                "--target",
                "reference",
                "--prompt", "Hi", "--max-tokens", 1, "--model-defaults", "-v").returncode == 0)
    assert "completion" in run("--help").stdout


def _with_input(text, *arguments):
    return subprocess.run([sys.executable, "-m", "bitnet_host", *arguments], input=text,
                          capture_output=True, text=True, timeout=120)


def test_prompts_from_files_and_standard_input(tmp_path):
    chat = ["chat", "--target", "reference", "--max-tokens", "3", "--json"]
    one = json.loads(run(*chat, "--prompt", "Hello!").stdout)
    assert (json.loads(_with_input("Hello!", *chat, "--prompt", "-").stdout)["token_ids"]
            == one["token_ids"])
    (tmp_path / "p.txt").write_text("Hello!\n\nWho are you?\n")
    many = [json.loads(line)
            for line in run(*chat, "--prompts", tmp_path / "p.txt").stdout.splitlines()]
    assert len(many) == 2 and many[0]["token_ids"] == one["token_ids"] != many[1]["token_ids"]
    assert len(_with_input("Hello!\nBye!\n", *chat, "--prompts", "-").stdout.splitlines()) == 2
    refused("chat", "--prompts", "/dev/null", saying="not a regular file")


def test_output_that_cannot_be_written():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "bitnet_host", "info", "--help"], stdout=full,
                              stderr=subprocess.PIPE, text=True)
        assert (done.returncode
                == 2
                and done.stderr
                == "bitnet-host: cannot write the output: No space left on device\n")
    command = f"{sys.executable} -m bitnet_host chat --target reference --prompt Hi --max-tokens 2"
    for closed in ("<&-", ">&-"):
        done = subprocess.run(["bash", "-c", f"{command} {closed}"], capture_output=True, text=True)
        assert "Traceback" not in done.stderr and done.returncode == (0 if closed == "<&-"
                else 2), done.stderr
    done = subprocess.run(["bash", "-c",
                           f"{sys.executable} -m bitnet_host chat --target reference <&-"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_commands_of_the_chat(tmp_path):
    saved = tmp_path / "talk.json"
    lines = ["Hello!", "/retry", f"/save {saved}", "/system You tell stories.", "/system",
             "/set max_tokens 2", "/set temperature hot",
             "/set", "/load /nowhere", f"/load {saved}", "/etc is a folder", "/help", "/stats",
             "/quit"]
    done = _with_input("\n".join(lines), "chat", "--target", "reference", "--max-tokens", "3")
    assert done.returncode == 0 and not done.stderr, done.stderr
    out = done.stdout
    # the slash message was answered, too
    assert out.count("Hello! I can\n") == 0 and out.count("cut at max_tokens") == 3
    assert ("You tell stories." in out and "max_tokens 2" in out
            and "temperature must be a number" in out and "2 messages." in out)
    assert "cannot read /nowhere" in out and "Ctrl-D" in out
    assert [m["role"] for m in json.loads(saved.read_text())["messages"]] == ["user", "assistant"]


def test_line_editing_and_pasting(tmp_path):
    """At a terminal: arrow keys edit, a paste of several lines is one message, Ctrl-C clears,
    Ctrl-D ends."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"XDG_CACHE_HOME": str(tmp_path), "TERM": "xterm", "NO_COLOR": "1"}
        os.execv(sys.executable,
                 [sys.executable, "-m",
                  "bitnet_host", "chat", "--target", "reference", "--max-tokens", "2"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    seen = b""

    def wait_for(text):
        nonlocal seen
        end = time.monotonic() + 60
        while text not in seen and time.monotonic() < end:
            if select.select([terminal], [], [], 1)[0]:
                try:
                    part = os.read(terminal, 4096)
                except OSError:
                    break
                seen += part
                if b"\x1b[6n" in part:
                    os.write(terminal, b"\x1b[1;1R")  # where the cursor is
        assert text in seen, seen[-2000:]
        seen = seen[seen.index(text) + len(text):]

    prompt = b"\x1b[6n"  # it asks where the cursor is
    wait_for(prompt)
    os.write(terminal, b"nonsense\x03")
    # five times left, then what was missing
    os.write(terminal, b"ello!\x1b[D\x1b[D\x1b[D\x1b[D\x1b[DH\r")
    wait_for(b"cut at max_tokens")
    wait_for(prompt)
    os.write(terminal, b"\x1b[200~one\ntwo " + b"x" * 5 + b"\nthree\x1b[201~\r")
    wait_for(b"cut at max_tokens")
    wait_for(prompt)
    os.write(terminal, f"/save {tmp_path}/talk\r".encode())
    wait_for(b"Saved 4 messages")
    wait_for(prompt)
    os.write(terminal, b"\x04")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    said = [m["content"]
            for m in json.loads((tmp_path / "talk").read_text())["messages"] if m["role"] == "user"]
    assert said == ["Hello!", "one\ntwo xxxxx\nthree"]


def test_the_chat_survives_a_second_ctrl_c():
    """The first ends the answer, and a second one while the board does not react ends the program,
    without a traceback."""
    process = subprocess.Popen([sys.executable, "-c", (
        "import time; from bitnet_host.apps.chat import interruptible\n"
        "with interruptible() as cancel:\n"
        "    print('go', flush=True)\n"
        "    while not cancel: time.sleep(0.01)\n"
        "    print('cancelled', flush=True)\n"
        "    time.sleep(60)\n")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"go\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"cancelled\n"
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=20)[1]


def test_make_with_another_target_builds_no_simulator():
    plan = subprocess.run(["make", "-n", "chat", "TARGET=reference"], cwd=ROOT,
                          capture_output=True, text=True)
    assert plan.returncode == 0 and "soc/build.py" not in plan.stdout
    assert ("soc/build.py" in subprocess.run(["make", "-n", "chat"], cwd=ROOT, capture_output=True,
                                             text=True).stdout)


def test_training_without_pytorch_says_what_to_install(tmp_path, monkeypatch, capsys):
    from bitnet_host.apps import train

    monkeypatch.setattr(train, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["bitnet-host", "train", "a.txt", "-o", str(tmp_path / "m")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and capsys.readouterr().err == (
        "bitnet-host: training needs PyTorch: pip install 'bitnet-zynq[train]'\n")
    assert not (tmp_path / "m").exists()
