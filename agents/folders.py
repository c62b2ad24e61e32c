"""Policies on disk: which model a spec means, what identifies it, and what is wrong with it before it is loaded.

A policy is a hub id, a folder that transformers loads, a PEFT adapter folder, which names its base in
adapter_config.json, or a GGUF file, which is written out once as a folder. Nothing here imports torch but
writing out a GGUF file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import struct
import tempfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from sotopia_env.errors import ConfigurationError, MissingExtraError, one_line
from sotopia_env.local import SMOLLM2, cache_folder, smollm2_path

ADAPTER_CONFIG = "adapter_config.json"

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")
_TOKENIZER = ("tokenizer*", "*.model", "vocab.*", "merges.txt", "special_tokens_map.json", "chat_template*")
_CONFIG = ("config.json", "generation_config.json", ADAPTER_CONFIG, "*.index.json")
_HERE_AND_NOW = ("_name_or_path", "name_or_path", "base_model_name_or_path", "transformers_version", "peft_version")
"""Keys of configurations that say where and with what a folder was made, not what it does."""

_PROMPT_TUNERS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT")


def check_installed(what: str) -> None:
    """Refuse early what needs torch and transformers where they are missing.

    Raises:
        MissingExtraError: If one of them is not installed.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{what} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            "Install it: pip install 'sotopia-env[train]'."
        )


def resolve_model(spec: str | Path) -> str:
    """The folder or hub id that transformers loads for a name.

    Args:
        spec: A folder, a hub id, a GGUF file, or "smollm2". A GGUF file is written out as a folder in the cache
            folder (`SOTOPIA_ENV_CACHE`) the first time, in bfloat16, which takes seconds.

    Returns:
        The absolute path of a folder, or a hub id as it was given.

    Raises:
        ConfigurationError: If it is a path, and there is no model or adapter.
        MissingExtraError: If a GGUF file is to be read and transformers or `gguf` is not installed.
    """
    text = str(spec)
    path = Path(text).expanduser()
    if text == SMOLLM2 and not path.is_dir():
        check_installed(f"hf/{SMOLLM2}")
        return str(_written_out(smollm2_path()))
    if path.is_dir():
        if not (path / "config.json").is_file() and not is_adapter(path):
            raise ConfigurationError(
                f"{text!r} holds neither config.json nor {ADAPTER_CONFIG}. Give the folder of a transformers model or "
                "of a PEFT adapter."
            )
        return str(path.resolve())
    if text.endswith(".gguf"):
        if not path.is_file():
            raise ConfigurationError(f"There is no file {text!r}. Give the path of a .gguf file, or {SMOLLM2!r}.")
        return str(_written_out(path.resolve()))
    if not _HUB_ID.fullmatch(text) or text.startswith("."):
        raise ConfigurationError(
            f"There is no folder {text!r}. Give the folder of a model or adapter, a hub id such as "
            f"'HuggingFaceTB/SmolLM2-135M-Instruct', or {SMOLLM2!r}."
        )
    return text


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds a PEFT adapter and no whole model."""
    return (Path(folder) / ADAPTER_CONFIG).is_file() and not (Path(folder) / "config.json").is_file()


def base_of(adapter: str | Path) -> str:
    """The folder or hub id of the base that an adapter folder names.

    A relative path is looked for from here, then from the adapter's folder; of an absolute one that is gone, a folder
    of its name beside the adapter's is taken. So both can be moved together.

    Raises:
        ConfigurationError: If the adapter names no base, its base is missing, or it is of a kind that is not played.
    """
    folder = Path(adapter)
    config = _json(folder / ADAPTER_CONFIG)
    name, kind = config.get("base_model_name_or_path"), config.get("peft_type")
    if kind in _PROMPT_TUNERS:
        raise ConfigurationError(f"The adapter {str(adapter)!r} is of type {kind!r}, which hf agents do not play.")
    if not isinstance(name, str) or not name:
        raise ConfigurationError(
            f"The adapter {str(adapter)!r} names no base model. Set base_model_name_or_path in its {ADAPTER_CONFIG}."
        )
    beside = folder.resolve().parent / Path(name).name if Path(name).is_absolute() else folder / name
    if not Path(name).exists() and beside.is_dir() and beside != folder.resolve():
        return resolve_model(beside)
    try:
        return resolve_model(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"The base of the adapter {str(adapter)!r} is missing. {error}") from error


def tokenizer_home(model: str, adapter: str | None) -> str:
    """Where the tokenizer is: in the adapter's folder if it has one, else with the base."""
    if adapter is not None and any(Path(adapter).glob("tokenizer*")):
        return adapter
    return model


def check_template(folder: str) -> None:
    """Refuse a folder without chat template. Hub ids are looked at when they are loaded.

    Raises:
        ConfigurationError: If it has none.
    """
    home = Path(folder)
    if not home.is_dir() or any(home.glob("chat_template*")) or any(home.glob("additional_chat_templates/*")):
        return
    config = home / "tokenizer_config.json"
    if not config.is_file() or not _json(config).get("chat_template"):
        raise ConfigurationError(no_template(folder))


def no_template(model: str) -> str:
    """The message for a model without chat template."""
    return (
        f"{model!r} has no chat template, so it cannot be talked to. Use an instruct model, or put a "
        "chat_template.jinja into its folder."
    )


# --- adapters against their base -------------------------------------------------------------------


def check_adapter(adapter: str, model: str) -> None:
    """Compare the shapes of an adapter's weights with its base's, from the heads of their files.

    Only folders with safetensors are compared; what cannot be compared is left to loading.

    Raises:
        ConfigurationError: If the adapter was made for another base.
    """
    theirs = _shapes(Path(model).glob("*.safetensors")) if Path(model).is_dir() else {}
    compared = 0
    parts = _shapes([Path(adapter) / "adapter_model.safetensors"])
    for key, (_, shape) in parts.items():
        found = re.fullmatch(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight", key)
        entry = theirs.get(f"{found['module']}.weight") if found else None
        if found is None or entry is None or entry[0] not in ("F32", "F16", "BF16") or len(entry[1]) != 2:
            continue
        compared += 1
        size = shape[1] if found["side"] == "A" else shape[0]
        if size != entry[1][found["side"] == "A"] and size not in _transposed(model, entry[1]):
            raise ConfigurationError(
                f"The adapter {adapter!r} was made for another base than {model!r}: at {found['module']} it has "
                f"{size} where the base has {' x '.join(map(str, entry[1]))}."
            )
    if theirs and not compared and any(".lora_A." in key for key in parts):
        raise ConfigurationError(
            f"The adapter {adapter!r} was made for another base than {model!r}: the base has none of its modules."
        )


def _transposed(model: str, shape: Sequence[int]) -> Sequence[int]:
    """Both sizes for GPT-2 and its like, whose layers keep their weights the other way round."""
    return shape if _json(Path(model) / "config.json").get("model_type") in ("gpt2", "openai-gpt") else ()


def _shapes(files: Iterable[Path]) -> dict[str, tuple[str, list[int]]]:
    """Data type and shape by name, from the heads of safetensors files."""
    found: dict[str, tuple[str, list[int]]] = {}
    for path in files:
        try:
            with path.open("rb") as file:
                head = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            found |= {name: (of["dtype"], of["shape"]) for name, of in head.items() if name != "__metadata__"}
        except OSError:
            continue
        except (ValueError, struct.error, LookupError, TypeError, MemoryError) as error:
            raise ConfigurationError(
                f"{str(path)!r} is no safetensors file, or only a part of one ({one_line(error)}). Make it again."
            ) from error
    return found


# --- identity -------------------------------------------------------------------------------------


class Place(NamedTuple):
    """A folder or hub id, and the identity of what it held when an agent was made of it."""

    path: str
    content: str

    @classmethod
    def of(cls, path: str) -> Place:
        """A place as it is now."""
        return cls(path, identity(path))


def identity(model: str, adapter: str | None = None) -> str:
    """Twelve hexadecimal digits of what decides a policy's behaviour: weights, configuration, tokenizer, template.

    Where a folder lies does not count. A hub id counts as such, and an adapter with its base.
    """
    digest = hashlib.sha256()
    for place in (model, adapter):
        if place is None:
            continue
        if not Path(place).is_dir():
            digest.update(f"hub {place}".encode())
            continue
        for path in _telling_files(Path(place)):
            digest.update(f"{path.name} {_file_hash(path)}\n".encode())
    return digest.hexdigest()[:12]


def _telling_files(folder: Path) -> list[Path]:
    patterns = (*_CONFIG, *_WEIGHTS, *_TOKENIZER, "additional_chat_templates/*")
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _file_hash(path: Path) -> str:
    seen = path.stat()
    return _hash_once(str(path), seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash_once(name: str, size: int, changed: int) -> str:
    path = Path(name)
    if path.suffix == ".json" and "config" in path.name:
        config = {key: value for key, value in _json(path).items() if key not in _HERE_AND_NOW}
        return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{str(path)!r} cannot be read ({one_line(error)}).") from error
    return value if isinstance(value, dict) else {}


# --- GGUF files -----------------------------------------------------------------------------------


def _written_out(file: Path) -> Path:
    """The folder of a GGUF file's model in the cache folder; made the first time."""
    check_installed(f"hf/{file.name}")
    folder = cache_folder() / f"{file.stem}-{_file_hash(file)[:12]}-bf16"
    if folder.is_dir():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError(
            f"Reading {file.name} with transformers needs gguf, which is not installed. "
            "Install it: pip install 'sotopia-env[train]'."
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Made beside its place and moved in one step, so that a killed or second process leaves no half a folder.
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            made = Path(temporary) / "model"
            _write_out(file, made)
            _move(made, folder)
    except OSError as error:
        raise ConfigurationError(f"{file.name} cannot be written out in {folder.parent}: {one_line(error)}.") from error
    return folder


def _move(made: Path, folder: Path) -> None:
    try:
        made.replace(folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker, with the same content
            raise
        shutil.rmtree(made, ignore_errors=True)


def _write_out(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    # Without dequantize=True the weights stay packed and can neither be saved nor trained.
    config = GgufConfig(dequantize=True)
    model: Any = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.bfloat16, quantization_config=config)
    for holder in (model.config, model):
        for name in ("quantization_config", "hf_quantizer", "is_quantized"):
            if hasattr(holder, name):
                delattr(holder, name)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
