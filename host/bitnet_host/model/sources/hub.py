"""Checkpoints by their name on huggingface.co: ``ORG/NAME[@REVISION][:FILE]``.

``huggingface_hub`` downloads what is not in its cache ($HF_HOME), goes on where a download ended,
and takes a token ($HF_TOKEN) and another address ($HF_ENDPOINT).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_host.errors import BadArgument, BadFile, BadModel

__all__ = ["HubName", "download"]

#: What of a repository a checkpoint is.
_WANTED = ("*.safetensors", "*.json", "*.jinja", "LICENSE*")
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[^:]+))?",
                   re.ASCII)


@dataclass(frozen=True)
class HubName:
    repo: str
    revision: str | None
    file: str | None

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """None for what is no such name, as any path of more or less than two parts is."""
        match = _NAME.fullmatch(text)
        if not match or text.startswith((".", "-")):
            return None
        return cls(match["repo"], match["revision"], match["file"])


def download(name: HubName) -> Path:
    """The folder of the checkpoint, or its one GGUF file, on this machine. Raises BadModel if there
    is none, BadArgument if there are several, BadFile if it cannot be written."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
    with _explained(name):
        try:
            names = [file.rfilename for file in
                     HfApi().model_info(name.repo, revision=name.revision).siblings or ()]
        except HfHubHTTPError:
            raise
        except (OfflineModeIsEnabled, HTTPError) as error:
            return _cached(name, error)
        file = _one_of(name, names)
        wanted = [file] if file else list(_WANTED)
        folder = Path(snapshot_download(name.repo, revision=name.revision, allow_patterns=wanted))
    return folder / file


def _one_of(name: HubName, names: list[str]) -> str:
    """The GGUF file to take, or nothing for a folder with safetensors."""
    files = [file for file in names if file.endswith(".gguf")]
    if name.file:
        if name.file not in files:
            raise BadArgument(f"{name.repo} has no GGUF file {name.file}; it has "
                              f"{', '.join(files) or 'none'}")
        return name.file
    if "config.json" in names and any(file.endswith(".safetensors") for file in names):
        return ""
    if len(files) > 1:
        raise BadArgument(f"{name.repo} holds {len(files)} GGUF files: say {name.repo}:FILE, with "
                          f"one of {', '.join(files)}")
    if not files:
        raise BadModel(f"{name.repo} holds neither safetensors with a config.json nor a GGUF file: "
                       f"this tool reads nothing else")
    return files[0]


def _cached(name: HubName, error: Exception) -> Path:
    """What an earlier download left, if the server cannot be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    for wanted in ([name.file],) if name.file else (list(_WANTED), ["*.gguf"]):
        with suppress(LocalEntryNotFoundError):
            folder = Path(snapshot_download(name.repo, revision=name.revision,
                                            allow_patterns=wanted, local_files_only=True))
            if (folder / "config.json").exists():
                return folder
            files = sorted(folder.glob(name.file or "*.gguf"))
            if len(files) == 1:
                return files[0]
    raise BadModel(f"{name.repo} is no path on this machine, and huggingface.co cannot be reached "
                   f"({_first_line(error)}): check the name, the network or HF_ENDPOINT") from None


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def _explained(name: HubName) -> Iterator[None]:
    """What the library raises, in one sentence."""
    from huggingface_hub import errors
    kinds: dict[type[Exception], Any] = {
        errors.GatedRepoError: "{0} is given to those who accepted its licence: do so on "
                               "huggingface.co, then set HF_TOKEN",
        errors.RepositoryNotFoundError: "{0} is no path on this machine, and huggingface.co has no "
                                        "such model, or only for others: check the name, or set "
                                        "HF_TOKEN",
        errors.HFValidationError: "there is no {0}: it is neither a path on this machine nor a "
                                  "name that huggingface.co could have",
        errors.LocalEntryNotFoundError: "{0} could not be downloaded ({2}): check the network",
        errors.RevisionNotFoundError: "{0} has no revision {1}: name a branch, a tag or a commit",
        errors.HfHubHTTPError: "huggingface.co refuses {0}: {2}",
    }
    others: tuple[type[Exception], ...] = (*kinds, errors.HTTPError)
    try:
        yield
    except others as error:
        words = next((words for kind, words in kinds.items() if isinstance(error, kind)),
                     "the download of {0} was cut off ({2}): start it again, it goes on where it "
                     "ended")
        raise BadModel(words.format(name.repo, name.revision, _first_line(error))) from None
    except json.JSONDecodeError:
        raise BadModel(f"what answers for {name.repo} is not huggingface.co, but a page of "
                       f"something else: check HF_ENDPOINT and the network's proxy") from None
    except OSError as error:
        raise BadFile(f"cannot keep {name.repo}: {error.strerror or _first_line(error)}; set "
                      f"HF_HOME to a place with room") from None
