"""Fetches a checkpoint from the Hugging Face Hub when the caller named one: the files needed, no more."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from tremplin.errors import IncompleteSource, MissingExtra, UnsafeWeights

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")

# What an import reads; everything else of a repository (onnx/, openvino/, pickles, images) stays there.
NEEDED = (
    "config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "modules.json",
    "sentence_*_config.json", "config_sentence_transformers.json", "[0-9]_*/*.json",
    "[0-9]_*/model*.safetensors", "[0-9]_*/vocab.txt",
)  # fmt: skip


def looks_like_hub_id(source: str) -> bool:
    """Return whether ``source`` is written ``org/name`` or ``org/name@revision``."""
    return HUB_ID.fullmatch(source) is not None


def fetch(source: str, revision: str | None) -> tuple[Path, str]:
    """Return the local folder of a Hub repository and the commit it holds.

    A copy already in the local cache serves when the Hub cannot be reached. Raises MissingExtra without
    ``huggingface_hub``, UnsafeWeights when the repository has only pickles, IncompleteSource when it cannot
    be reached or does not exist.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise MissingExtra(
            "Fetching from the Hugging Face Hub needs huggingface_hub: pip install 'tremplin[optimize]'. "
            "A local folder needs nothing."
        ) from error
    name, _, at = source.partition("@")
    wanted = revision or at or None
    try:
        info = HfApi().model_info(name, revision=wanted)
        commit = str(info.sha)
        _refuse_pickle_only(name, [sibling.rfilename for sibling in info.siblings or ()])
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(NEEDED))), commit
    except UnsafeWeights:
        raise
    except Exception as error:  # the client raises httpx, OS and its own errors: all mean "not fetched"
        cached = _cached(name, wanted)
        if cached is not None:
            return cached, cached.name
        raise IncompleteSource(
            f"{name!r} could not be fetched from the Hugging Face Hub ({type(error).__name__}) and no local "
            "copy is in the cache. Check the name, the network and access rights, or give a local folder."
        ) from error


def _cached(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(NEEDED), local_files_only=True))
    except OSError:  # LocalEntryNotFoundError is a FileNotFoundError
        return None


def _refuse_pickle_only(name: str, files: list[str]) -> None:
    has_safetensors = any(fnmatch(file, "*.safetensors") for file in files)
    pickles = [file for file in files if fnmatch(file, "*.bin") or fnmatch(file, "*.pt")]
    if pickles and not has_safetensors:
        raise UnsafeWeights(
            f"{name!r} publishes its weights only as pickle ({pickles[0]}), a format that can run code when "
            "it is read. Nothing was downloaded. Ask its authors for safetensors "
            "(huggingface.co/spaces/safetensors/convert opens the request), or convert it on a machine where "
            "you trust it and import the folder."
        )
