"""A whole training: from what was asked for to the folder, and from what a killed one left."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from bitnet_host.errors import BadArgument, BadFile
from bitnet_host.files import read_json, replacing
from bitnet_host.model.checkpoint import Checkpoint, ModelConfig, matrix_shapes
from bitnet_host.model.convert import packing, what_does_not_run
from bitnet_host.train.folder import form_of, new_form, parameters_of, write_model
from bitnet_host.train.look import sample
from bitnet_host.train.network import Network, Parameters, Rounded, new_parameters
from bitnet_host.train.report import card, picture
from bitnet_host.train.run import Budget, Run, Stop
from bitnet_host.train.state import Interval, Record, State, load_state, save_state
from bitnet_host.train.texts import read_texts
from bitnet_host.train.tokens import (
    BOS,
    EOS,
    NOTHING,
    TEMPLATE,
    new_tokenizer,
    pack,
    text_model,
)

__all__ = ["FOLDER", "Job", "Settings", "check_machine", "resumed", "settings_of"]

#: Of what only the run needs, in the checkpoint's folder.
FOLDER = "training"
_SHORT, _LONG = 24, 60  # tokens of a sample, as it goes and at the end
_SAMPLES = 5  # looks between them


@dataclass(frozen=True)
class Settings:
    """What makes a run the run that it is. ``config``: fields of the new model, or nothing if it
    begins with the folder ``start``; ``scale``: of the learning rates; ``threads``: 0 for as many
    as PyTorch likes."""

    texts: list[str]
    config: dict[str, Any]
    start: str
    context: int
    seconds: float
    steps: int
    batch: int
    at_once: int
    seed: int
    scale: float
    device: str
    bfloat16: bool
    compiled: bool
    threads: int
    packed: bool
    compare: bool
    command: str


def settings_of(folder: Path) -> Settings:
    """Those of the run that a folder holds. Raises BadFile."""
    found = read_json(folder / FOLDER / "settings.json")
    try:
        settings = Settings(**found)
        if settings.config:
            ModelConfig(**settings.config)
        return settings
    except TypeError:
        raise BadFile(f"{folder / FOLDER / 'settings.json'} is of another version of this tool: "
                      f"start anew without --resume") from None


class Job:
    """Everything that a run needs. Raises BadArgument, BadFile and BadModel before anything is
    written."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        _machine(settings)
        texts = read_texts([Path(name) for name in settings.texts], settings.seed)
        self.texts = texts
        if settings.start:
            checkpoint, self.form = form_of(Path(settings.start))
            self.config, self.tokenizer = _begun_with(checkpoint, settings)
            self._start: Parameters | None = parameters_of(checkpoint)
            special, template = checkpoint.special or {}, checkpoint.chat_template
        else:
            self.config, self._start = ModelConfig(**settings.config), None
            self.tokenizer = _kept_tokenizer(folder) or new_tokenizer(texts, self.config.vocab)
            self.form = new_form(self.config, self.tokenizer, settings.packed)
            special, template = {"bos_token": BOS, "eos_token": EOS}, TEMPLATE
        text = text_model(self.tokenizer, template, special, self.config.vocab)
        self._ends = _ends(self.tokenizer, special, self.config)
        self._rows, self._kept = (
            torch.from_numpy(pack(documents, text, self._ends, self.config.context, filled))
            for documents, filled in ((texts.learnt, False), (texts.kept, True)))

    def parameters(self) -> Parameters:
        made = self._start or new_parameters(self.config, self.settings.seed)
        return {name: value.clone().to(self.settings.device) for name, value in made.items()}

    # -- the run -----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Makes the folder, and what is needed to go on."""
        place = self.folder / FOLDER
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadFile(f"cannot make {place}: {error.strerror}") from None
        _write(place / "settings.json", json.dumps(asdict(self.settings), indent=2))
        _write(place / "tokenizer.json", json.dumps(self.tokenizer, ensure_ascii=False))

    def train(self, name: str, quantised: bool, tell: Callable[[Record, str], None],
              stop: Stop) -> Run:
        """The run that is kept as ``name``, from where it is to its end, or to where it was asked
        to stop. ``tell`` hears each record, now and then with words of the model."""
        path, settings = self.folder / FOLDER / f"{name}.safetensors", self.settings
        about = self._about()
        if path.exists():
            state = load_state(path)
            if state.settings != about:
                raise BadFile(f"{path} is of another run, or the texts have changed since: start "
                              f"anew without --resume")
        else:
            state = State(about, Interval(0, 0, 0.0, 0.0, False))
        network = Network(self.config, settings.device, quantised)
        run = Run(network, self.parameters(), state, self._budget(quantised), self._rows,
                  self._kept, batch=settings.batch, at_once=settings.at_once, seed=settings.seed,
                  scale=settings.scale, bfloat16=settings.bfloat16, compiled=settings.compiled,
                  save=lambda state: save_state(path, state), stop=stop)

        def look(record: Record) -> None:
            often = len(run.state.history) % _SAMPLES == 0 and not run.done
            tell(record, self.sample(run, _SHORT) if often else "")

        run.train(look)
        return run

    def sample(self, run: Run, tokens: int) -> str:
        """What the model says by itself."""
        start, end = self._ends
        return str(sample(run.network, run.parameters, run.rounded(), self.tokenizer, [start or 0],
                          end, tokens, self.settings.seed))

    def _budget(self, quantised: bool) -> Budget:
        """The model that is compared with takes as many steps as the other one took."""
        if quantised or self.settings.steps:
            return Budget(self.settings.seconds, self.settings.steps)
        other = load_state(self.folder / FOLDER / "state.safetensors")
        return Budget(0.0, other.step)

    def _about(self) -> dict[str, Any]:
        matrices = sum(rows * columns for rows, columns in matrix_shapes(self.config).values())
        with torch.device("meta"):  # shapes, no numbers
            total = sum(value.numel() for value in new_parameters(self.config, 0).values())
        return asdict(self.settings) | {
            "digest": self.texts.digest, "files": self.texts.files, "parameters": total,
            "ternary": matrices * self.config.layers, "learnt": self._digest()}

    def _digest(self) -> str:
        """Of all that a run follows from beside its settings."""
        digest = hashlib.sha256(json.dumps(asdict(self.config)).encode())
        for rows in (self._rows, self._kept):
            digest.update(rows.numpy().tobytes())
        for name, content in sorted(self.form.files.items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()

    def heading(self) -> str:
        about = self._about()
        kept = int((self._kept != NOTHING).sum())
        return (f"{about['parameters']:,} parameters, {about['ternary']:,} of them ternary; "
                f"{self._rows.numel():,} tokens to learn from, {kept:,} kept back")

    # -- what comes of it --------------------------------------------------------------------------

    def finish(self, run: Run, comparison: dict[str, float] | None) -> str:
        """Writes the checkpoint and its model card; what the model says by itself."""
        state, said = run.state, self.sample(run, _LONG)
        write_model(self.folder, self.form, run.parameters, self.config)
        _write(self.folder / FOLDER / "curve.svg", picture(state.history, self.folder.name))
        _write(self.folder / "README.md", card(state, said, comparison))
        return said

    def compared(self, run: Run, other: Run) -> dict[str, float]:
        """Losses on what was kept back: of the float model, of the same rounded afterwards, and of
        the one that learnt with rounding."""
        network = Network(self.config, self.settings.device)
        after, _, _ = other.validated(network, Rounded.of(other.parameters, self.config, True))
        return {"float": other.state.history[-1].valid, "rounded afterwards": after,
                "trained ternary": run.state.history[-1].valid}


def resumed(folder: Path) -> bool:
    return (folder / FOLDER / "settings.json").exists()


def _machine(settings: Settings) -> None:
    if settings.device != "cpu" and not torch.cuda.is_available():
        raise BadArgument(f"--device {settings.device}: PyTorch finds no such device here; leave "
                          f"it out to train on the CPU")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _begun_with(checkpoint: Checkpoint,
                settings: Settings) -> tuple[ModelConfig, dict[str, Any]]:
    if checkpoint.tokenizer is None:
        raise BadFile(f"{settings.start} has no tokenizer: put its tokenizer.json there")
    return replace(checkpoint.config, context=settings.context), checkpoint.tokenizer


def _ends(tokenizer: dict[str, Any], special: dict[str, Any],
          config: ModelConfig) -> tuple[int | None, int | None]:
    """BOS and EOS, where there are any: by their words or, without, by the model's numbers."""
    made = Tokenizer.from_str(json.dumps(tokenizer))
    bos, eos = (made.token_to_id(special.get(name) or "") for name in ("bos_token", "eos_token"))
    return (special.get("bos_token_id") if bos is None else bos,
            next(iter(config.stop_tokens), None) if eos is None else eos)


def _kept_tokenizer(folder: Path) -> dict[str, Any] | None:
    path = folder / FOLDER / "tokenizer.json"
    return read_json(path) if path.exists() else None


def check_machine(config: ModelConfig) -> None:
    """Raises BadArgument for a model that no board could run."""
    problem = what_does_not_run(config, packing(config))
    if problem:
        raise BadArgument(f"this model would not run on a board: {problem}")


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode(errors="replace"))
