"""Stages of a run in a folder: what was made of the same inputs before is not made again.

manifest.json keeps of every stage a hash of its inputs and what it came to. Several processes may do stages of one run
at the same time, as long as they are different ones.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from sotopia_env.errors import ConfigurationError
from sotopia_env.tasks import digest

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1

_LOCK = "manifest.lock"

_RECORDS = ("filters", "training", "samples")
"""Folders of which a report shows every file."""


class Stages:
    """The stages in a folder.

    Args:
        folder: Where they are kept.
        seed: Of the run; part of all inputs.
        tell: Gets a line of text whenever a stage begins, is skipped or ends.

    Attributes:
        manifest: What manifest.json holds.
        used: Names of stages and files of this run; others were left by other settings.
        told: Stages of which it was told what became of them.
    """

    def __init__(self, folder: Path, seed: int, tell: Callable[[str], None]) -> None:
        self.folder = folder
        self.seed = seed
        self.manifest: dict[str, Any] = {}
        self.used: set[str] = set()
        self.told: set[str] = set()
        self._tell = tell

    def open(self, **about: Any) -> None:
        """Begin or go on, with these entries at the manifest's head.

        Raises:
            ConfigurationError: If there is a manifest that cannot be read.
        """
        self.told.clear()
        path = self.folder / MANIFEST
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it holds no mapping")
        except FileNotFoundError:
            found = {}
        except ValueError as error:
            raise ConfigurationError(
                f"{str(path)!r} cannot be read: {error}. Choose another folder, or remove it to begin anew."
            ) from error
        version = found.get("manifest_version", MANIFEST_VERSION)
        if version > MANIFEST_VERSION:
            raise ConfigurationError(
                f"{str(self.folder)!r} was made by a newer version of this package. Upgrade sotopia-env to go on."
            )
        head = {"manifest_version": MANIFEST_VERSION, **about, "seed": self.seed}
        self.manifest = {**head, "stages": found.get("stages", {})}
        self.write(MANIFEST, self.manifest)

    def join(self, told: Collection[str]) -> None:
        """Take note of what other processes of this run have done, and of which stages they have told."""
        self.told |= {*told}
        with self._lock():
            self.manifest = self._read()

    def do(
        self,
        name: str,
        inputs: object,
        work: Callable[[], dict[str, Any]],
        *,
        makes: Sequence[str] = (),
        scratch: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Do a stage, or give what it gave if its inputs are the same and what it made is there.

        If they have changed, what it made and its scratch files, left by an interruption, go first.
        """
        key = digest([inputs, self.seed])
        self.used |= {name, *makes}
        known = self.manifest["stages"].get(name) or {}
        fits = known.get("inputs") == key
        statistics: dict[str, Any] = known.get("statistics") or {}
        is_done = fits and bool(statistics) and statistics.get("complete", True)
        if is_done and all((self.folder / made).exists() for made in makes):
            if name not in self.told:
                self._tell(f"{name}: done before")
            self._put(name, known)
            return statistics
        if known and not fits:
            self._tell(f"{name}: its inputs have changed")
            for made in (*makes, *scratch):
                self.remove(made)
        self._tell(f"{name}: started")
        # Written before the work: what an interrupted stage leaves behind belongs to these inputs.
        self._put(name, {"inputs": key})
        begun = time.perf_counter()
        statistics = json.loads(json.dumps(work()))
        seconds = time.perf_counter() - begun
        self._put(name, {"inputs": key, "statistics": statistics, "seconds": round(seconds, 1)})
        self._tell(f"{name}: done in {seconds:.0f} s")
        return statistics

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file of the folder, whole or not at all."""
        path = self.place(name)
        beside = path.with_name(path.name + ".new")
        beside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        beside.replace(path)

    def place(self, name: str) -> Path:
        """The path of a file, in a folder that exists."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def remove(self, name: str) -> None:
        """Remove what a stage made. Stores stay: their episodes are found by all that decides them."""
        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".db":
            path.unlink(missing_ok=True)

    def forget_the_rest(self) -> None:
        """Leave nothing of other settings in the report: a control that is no longer asked for, further rounds."""
        for name in [name for name in self.manifest["stages"] if name not in self.used]:
            del self.manifest["stages"][name]
        self.write(MANIFEST, self.manifest)
        for folder in _RECORDS:
            for path in (self.folder / folder).glob("*.json"):
                if f"{folder}/{path.name}" not in self.used:
                    path.unlink()

    def _put(self, name: str, entry: dict[str, Any]) -> None:
        """Write what is known of a stage, as the last one: the manifest tells the order in which stages ran."""
        self.told.add(name)
        with self._lock():
            self.manifest = self._read()
            self.manifest["stages"].pop(name, None)
            self.manifest["stages"][name] = entry
            self.write(MANIFEST, self.manifest)

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        return found

    def _lock(self) -> Any:
        from filelock import FileLock

        return FileLock(self.folder / _LOCK)


__all__ = ["MANIFEST", "MANIFEST_VERSION", "Stages"]
