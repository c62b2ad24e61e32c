"""Where stored episodes are read from: an episode store, or a JSON Lines file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sotopia_env.cli.common import counted, log
from sotopia_env.errors import StoreError, unknown

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode
    from sotopia_env.store import EpisodeStore

SHORT_ID = 12
"""Characters of an id that tables show; any unique prefix names an episode."""


class Source(Protocol):
    """Episodes that can be read again and again."""

    location: str

    def episodes(self) -> Iterator[Episode]:
        """Every episode."""
        ...

    def ids(self) -> list[str]:
        """Every id."""
        ...

    def get(self, episode_id: str) -> Episode | None:
        """The episode of an id."""
        ...


class FileSource:
    """A JSON Lines file, read line by line each time."""

    def __init__(self, path: Path) -> None:
        self.location = str(path)
        self._told = False

    def episodes(self) -> Iterator[Episode]:
        """Every episode, in file order; one that stands there several times once."""
        from sotopia_env.episodes import read_episodes

        ids: set[str] = set()
        again = 0
        try:
            for episode in read_episodes(self.location):
                if episode.id in ids:
                    again += 1
                else:
                    ids.add(episode.id)
                    yield episode
        except UnicodeDecodeError as error:
            raise StoreError(
                f"{self.location!r} is neither an episode store nor JSON Lines ({error.reason}). "
                "Pass the path of a store or of a .jsonl file of episodes."
            ) from error
        if again and not self._told:
            self._told = True
            log(f"{self.location}: passed over {counted(again, 'line')} with an episode that stood there before.")

    def ids(self) -> list[str]:
        """Every id, in file order."""
        return [episode.id for episode in self.episodes()]

    def get(self, episode_id: str) -> Episode | None:
        """The first episode of an id."""
        return next((episode for episode in self.episodes() if episode.id == episode_id), None)


class StoreSource:
    """An episode store."""

    def __init__(self, store: EpisodeStore) -> None:
        self.store = store
        self.location = store.location

    def episodes(self) -> Iterator[Episode]:
        """Every episode, by task."""
        return self.store.episodes()

    def ids(self) -> list[str]:
        """Every key."""
        return self.store.keys()

    def get(self, episode_id: str) -> Episode | None:
        """The episode of a key."""
        return self.store.get(episode_id)


def open_source(location: str) -> Source:
    """Open a store (a path or an SQLAlchemy URL) or a JSON Lines file, told apart by content.

    Raises:
        StoreError: If there is nothing of either kind.
    """
    path = Path(location)
    if "://" not in location and path.is_file() and not _is_sqlite(path):
        return FileSource(path)
    from sotopia_env.store import EpisodeStore

    return StoreSource(EpisodeStore(location, create=False))


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def find_episode(source: Source, prefix: str | None) -> Episode:
    """The episode whose id begins with `prefix`, or without one the latest.

    Raises:
        StoreError: If there is none, or several.
    """
    if prefix is None:
        latest = max(source.episodes(), key=lambda episode: episode.started_at or "", default=None)
        if latest is None:
            raise StoreError(f"{source.location!r} holds no episodes yet. Fill it with `sotopia-env rollout`.")
        return latest
    ids = source.ids()
    found = sorted({episode_id for episode_id in ids if episode_id.startswith(prefix)})
    if len(found) != 1:
        if found:
            some = ", ".join(episode_id[:SHORT_ID] for episode_id in found[:5])
            raise StoreError(f"Episode id {prefix!r} is the beginning of {len(found)} ids: {some}. Give more of it.")
        known = [episode_id[:SHORT_ID] for episode_id in ids]
        raise StoreError(unknown("episode id", prefix, known, "List them with `sotopia-env show ... --list`."))
    episode = source.get(found[0])
    if episode is None:
        raise StoreError(f"Episode {found[0]!r} is no longer in {source.location!r}.")
    return episode
