"""`bitnet-host train` from outside: what it writes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from bitnet_host.apps.cli import main
from bitnet_host.model.convert import convert
from bitnet_host.model.sources.hf import open_checkpoint
from bitnet_host.model.sources.random_folders import small_checkpoint, write_folder
from small_language import SHAPE, write_grammar

QUICK = ("--size", SHAPE, "--batch", 4, "--at-once", 4, "--threads", 1)


def _train(*arguments, code=0, command="train"):
    done = subprocess.run([sys.executable, "-m", "bitnet_host", command, *map(str, arguments)],
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    if code == 2:
        assert done.stderr.count("\n") == 1, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_grammar(tmp_path_factory.mktemp("texts") / "grammar.txt", 600)


def test_a_whole_run(texts, tmp_path):
    """Compared with a float model, gone on from, and taken by the other commands."""
    folder, tuned = tmp_path / "model", tmp_path / "tuned"
    out = _train(texts, "-o", folder, *QUICK, "--steps", 30, "--compare")
    assert "94,912 parameters, 73,728 of them ternary" in out
    losses = {line.rsplit(None, 4)[0].strip(): float(line.split()[-4])
              for line in out.splitlines() if line.endswith("nats per token")}
    assert list(losses) == ["float", "rounded afterwards", "trained ternary"]
    assert losses["rounded afterwards"] > losses["float"] + 0.05
    assert losses["rounded afterwards"] > losses["trained ternary"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "grammar.txt" in card and f"{losses['float']:.3f}" in card and "--compare" in card
    picture = (folder / "training/curve.svg").read_text(encoding="utf-8")
    assert picture.count("<polyline") == 2 and picture.startswith("<svg")
    chat = tmp_path / "chat.jsonl"
    lines = [{"messages": [{"role": "user", "content": f"Count to {n}"},
                           {"role": "assistant", "content": "1 " * n}]} for n in range(40)]
    chat.write_text("\n".join(map(json.dumps, lines)))
    out = _train(chat, "-o", tuned, "--from", folder, "--steps", 10, "--batch", 4, "--threads", 1)
    assert "wrote" in out
    assert (tuned / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    for path in (folder, tuned):
        assert convert(open_checkpoint(path)).header.vocab == 320
        assert "fits" in _train(path, "--json", command="plan")
    said = _train("--model", tuned, "--target", "reference", "--prompt", "Hi", "--max-tokens", 4,
                  command="chat")
    assert "prompt tokens" in said


def test_minutes_end_in_time_with_a_rate_of_zero(texts, tmp_path):
    folder = tmp_path / "model"
    out = _train(texts, "-o", folder, *QUICK, "--minutes", 0.1)
    rows = [line.split() for line in out.splitlines() if line[:7].strip().count(":") == 1
            and line[:7].strip().replace(":", "").isdecimal()]
    assert rows[-1][0] in ("0:05", "0:06", "0:07", "0:08")
    assert len(rows) >= 3
    tokens = [int(row[2].replace(",", "")) for row in rows]
    assert tokens == sorted(tokens) and tokens[-1] > 1000


def test_bfloat16_and_compiled_kernels_learn(texts, tmp_path):
    """Slower on a CPU without such instructions, but it computes nearly the same."""
    plain = _train(texts, "-o", tmp_path / "a", *QUICK, "--steps", 12)
    other = _train(texts, "-o", tmp_path / "b", *QUICK, "--steps", 12, "--precision", "bfloat16")
    built = _train(texts, "-o", tmp_path / "c", *QUICK, "--steps", 12, "--compile")

    def last(out):
        return float(next(line for line in out.splitlines() if " 12 " in line[:16]).split()[4])
    assert abs(last(plain) - last(other)) < 0.05 and abs(last(plain) - last(built)) < 0.02


@pytest.mark.parametrize("arguments, words", [
    ([], "there is nothing to learn from"),
    (["none.txt"], "none.txt: No such file or directory"),
    (["T", "--size", "huge"], "--size must be tiny, small or dimensions, as hidden=256,"),
    (["T", "--size", "hidden=64"], "lacks intermediate"),
    (["T", "--size", SHAPE.replace("heads=2", "heads=3", 1)], "3 heads of 32 must make up"),
    (["T", "--size", f"{SHAPE},activation=silu"], "is of 2B-4T's architecture: leave out activ"),
    (["T", "--vocab", "200"], "a vocabulary of 200 is too small: 260 tokens"),
    (["T", "--vocab", "3000"], "too little for a vocabulary of 3000"),
    (["T", "--minutes", "0"], "--minutes must lie between 0.01 and 1e+06, not 0"),
    (["T", "--minutes", "nan"], "--minutes must lie"),
    (["T", "--minutes", "1", "--steps", "1"], "--minutes and --steps are two ways"),
    (["T", "--batch", "0"], "--batch must lie between 1"),
    (["T", "--device", "tpu"], "--device must be cpu or cuda, not tpu"),
    (["T", "--precision", "int8"], "--precision must be float32 or bfloat16"),
    (["T", "--from", "none"], "--from takes the folder of a checkpoint"),
    (["T", "--from", ".", "--size", "tiny"], "takes the checkpoint's own: leave out --size"),
    (["T", "--size", SHAPE.replace("kv_heads=1", "kv_heads=0")], "kv_heads=0 is too small"),
    (["T", "--size", "tiny,layers=0"], "layers=0 is too small"),
    (["T", "--size", "2b4t,layers=1"], "--size must be tiny, small or dimensions"),
    (["T", "--size", SHAPE.replace("context=64", "context=1")], "context=1 is too small"),
    (["T", "--from", "M", "--context", "4096"], "--context 4096 is more than the 64 that"),
    (["T", "--from", "M", "--compare"], "leave out --from or --compare"),
    (["T", "--from", "M"], "has no tokenizer: put its tokenizer.json there"),
    (["S", "--size", SHAPE, "--vocab", "260"], "too little: "),
    (["--resume", "--seed", "0"], "leave out --seed"),
    (["--resume", "--no-compile"], "leave out --compile"),
    (["--resume"], "holds no run to resume: leave out --resume"),
    (["--resume", "--steps", "3", "--batch", "2"], "leave out --steps, --batch"),
    (["T", "--resume"], "leave out the texts"),
    (["T", "--size", SHAPE.replace("hidden=64", "hidden=8192").replace("heads=2", "heads=256", 1)],
     "this model would not run on a board"),
])
def test_what_is_refused(texts, tmp_path, monkeypatch, capsys, arguments, words):
    """With one sentence, before anything is written."""
    folder = tmp_path / "model"
    model, short = tmp_path / "other", tmp_path / "short.txt"
    model.mkdir()
    write_folder(model, small_checkpoint("2b4t", "BF16"), "2b4t", "BF16")
    short.write_text("a\n<|endoftext|>\nb\n")
    given = [{"T": str(texts), "M": str(model), "S": str(short)}.get(argument, argument)
             for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["bitnet-host", "train", *given, "-o", str(folder)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert words in said and ended.value.code == 2 and said.count("\n") == 1
    assert not folder.exists()


def test_a_folder_that_is_there_is_kept(texts, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_text("mine")
    assert "is there: give another folder" in _train(texts, "-o", folder, *QUICK, code=2)
    assert "is there: give another folder" in _train(texts, "-o", folder / "a", *QUICK, code=2)
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert "cannot make" in _train(texts, "-o", "/proc/model", *QUICK, code=2)


def test_a_name_with_changes_is_that_size(texts, tmp_path):
    _train(texts, "-o", tmp_path / "m", "--size", "tiny,layers=1,vocab=300", "--steps", 1,
           "--batch", 2, "--at-once", 2, "--threads", 1)
    config = open_checkpoint(tmp_path / "m").config
    assert (config.layers, config.vocab, config.hidden, config.context) == (1, 300, 128, 128)


def test_what_was_left_before_there_was_anything(texts, tmp_path):
    """A folder of folders without a file, as a full disk leaves it, is none that is there."""
    (tmp_path / "m/training").mkdir(parents=True)
    _train(texts, "-o", tmp_path / "m", *QUICK, "--steps", 1)


def test_a_graphics_card_that_is_not_there(texts, tmp_path):
    if torch.cuda.is_available():
        return
    assert "PyTorch finds no such device here" in _train(
        texts, "-o", tmp_path / "m", *QUICK, "--device", "cuda", code=2)
