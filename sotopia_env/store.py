"""The episode store: finished episodes in a database, one under each key.

SQLite by default (a path is enough), anything else that SQLAlchemy speaks by URL. A record is kept as
ASCII-escaped JSON in a text column, because PostgreSQL refuses NUL in text; verdicts stand in a table
of their own, so that one episode can be scored by many judges, and are merged in on reading. Replies of
judge models are kept by what was asked (`sotopia_env.judges.cache`), so that nothing is paid twice.

    store = EpisodeStore("runs.db")
    for episode in store.episodes(status="complete", judge="outcome"):
        print(episode.id, episode.rewards)

SQLite runs in WAL mode with `synchronous=NORMAL`: a killed process loses nothing that was committed,
a power cut may lose the last commits but never damages the file. Several processes may write to one
file; they wait for each other.
"""

from __future__ import annotations

import itertools
import json
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, get_args, overload

import sqlalchemy
from pydantic import ValidationError
from sqlalchemy import Column, Connection, Engine, Index, MetaData, Select, Table, Text, delete, event, insert, select
from sqlalchemy.exc import IntegrityError, NoSuchModuleError, SQLAlchemyError

from sotopia_env.episodes import Episode, Status, Verdict, dump_json, load_episode
from sotopia_env.errors import ConfigurationError, StoreError, unknown

SCHEMA_VERSION = 1
"""Version of the tables; an older package refuses a newer store instead of guessing."""

_VERSION_NOTE = "schema_version"

STATUSES: tuple[str, ...] = get_args(Status)

_PAGE = 100
_CHUNK = 500
_BUSY_SECONDS = 60

_schema = MetaData()
_episodes = Table(
    "episodes",
    _schema,
    Column("key", Text, primary_key=True),
    Column("task_id", Text, nullable=False),
    Column("pack", Text, nullable=False),
    Column("family", Text, nullable=False),
    Column("split", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("names", Text, nullable=False),
    Column("record", Text, nullable=False),
    Index("episodes_by_task", "task_id", "key"),
)
_verdicts = Table(
    "verdicts",
    _schema,
    Column("key", Text, primary_key=True),
    Column("judge", Text, primary_key=True),
    Column("record", Text, nullable=False),
)
_replies = Table(
    "judge_replies",  # made when it is first needed: stores of earlier versions have none
    MetaData(),
    Column("key", Text, primary_key=True),
    Column("record", Text, nullable=False),
)
_meta = Table("meta", _schema, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))


class EpisodeStore:
    """Episodes in a database.

    Args:
        location: A file path (SQLite; made if it does not exist), ":memory:", or an SQLAlchemy URL such as
            "postgresql+psycopg://user@host/database".
        create: False refuses a location that holds no store yet, for commands that only read.

    Raises:
        StoreError: If it cannot be opened, is no episode store, or was written by a newer version.
    """

    def __init__(self, location: str | Path, *, create: bool = True) -> None:
        self._engine, self.location = _connect(location, create)
        # Closing explicitly, at the latest when nobody holds the store, also folds SQLite's WAL into the file.
        self._closer = weakref.finalize(self, self._engine.dispose)
        try:
            self._prepare(create)
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections. The store opens new ones if it is used again."""
        self._engine.dispose()

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EpisodeStore({self.location!r})"

    # --- writing --------------------------------------------------------------------------------

    def add(self, episode: Episode) -> bool:
        """Write one episode with its verdicts, in one transaction.

        Returns:
            True if it was written. False if a complete episode of this key is stored already: that one
            stays as it is. A failed or unjudged one is replaced.

        Raises:
            StoreError: If the store cannot be written.
        """
        return self.add_all([episode]) == 1

    def add_all(self, episodes: Iterable[Episode]) -> int:
        """Write many episodes, some hundreds in a transaction, each as `add` does; returns how many were written."""
        written = 0
        waiting = iter(episodes)
        while batch := list(itertools.islice(waiting, _CHUNK)):
            chunk: dict[str, Episode] = {}
            for episode in batch:
                if episode.key not in chunk or chunk[episode.key].status != "complete":
                    chunk[episode.key] = episode
            try:
                written += self._add_chunk(chunk)
            except StoreError as error:
                # Outside SQLite two writers can both find a key absent; the second then finds it present.
                if not isinstance(error.__cause__, IntegrityError):
                    raise
                written += self._add_chunk(chunk)
        return written

    def _add_chunk(self, chunk: Mapping[str, Episode]) -> int:
        rows = {key: _row(episode) for key, episode in chunk.items()}
        verdicts = [_verdict_row(key, v) for key, episode in chunk.items() for v in episode.verdicts.values()]
        with self._transaction(write=True) as connection:
            stored = _episodes.c.key.in_(list(rows))
            complete = set(connection.scalars(select(_episodes.c.key).where(stored, _episodes.c.status == "complete")))
            fresh = [key for key in rows if key not in complete]
            if fresh:
                connection.execute(delete(_verdicts).where(_verdicts.c.key.in_(fresh)))
                connection.execute(delete(_episodes).where(_episodes.c.key.in_(fresh)))
                connection.execute(insert(_episodes), [rows[key] for key in fresh])
            verdicts = [row for row in verdicts if row["key"] not in complete]
            if verdicts:
                connection.execute(insert(_verdicts), verdicts)
        return len(fresh)

    def add_verdict(
        self,
        key: str,
        verdict: Verdict,
        *,
        usage: Mapping[str, int] | None = None,
        rewards: Mapping[str, float] | None = None,
    ) -> None:
        """Add a judge's verdict to a stored episode, or replace that judge's earlier one.

        Args:
            key: The episode's key.
            verdict: What the judge found; kept under `verdict.judge`.
            usage: What judging cost, for the episode's `usage` under the judge's name.
            rewards: Rewards by this verdict, kept only if the episode has none: rewards follow the judge
                that gave them first.

        Raises:
            StoreError: If there is no episode of this key, or the store cannot be written.
        """
        with self._transaction(write=True) as connection:
            record = connection.scalar(select(_episodes.c.record).where(_episodes.c.key == key))
            if record is None:
                raise StoreError(
                    f"Episode store {self.location!r} holds no episode of key {key!r}; add the episode first."
                )
            episode = load_episode(record, self._where(key))
            change: dict[str, Any] = {}
            if usage:
                change["usage"] = {**episode.usage, verdict.judge: dict(usage)}
            if rewards and not episode.rewards:
                change["rewards"] = dict(rewards)
            if change:
                row = _row(episode.model_copy(update=change))
                connection.execute(_episodes.update().where(_episodes.c.key == key).values(record=row["record"]))
            mine = (_verdicts.c.key == key) & (_verdicts.c.judge == verdict.judge)
            connection.execute(delete(_verdicts).where(mine))
            connection.execute(insert(_verdicts), _verdict_row(key, verdict))

    def add_note(self, name: str, value: str) -> None:
        """Keep a text beside the episodes under a name, in place of an earlier one.

        Raises:
            ConfigurationError: For the name under which the store keeps its own version.
            StoreError: If the store cannot be written.
        """
        if name == _VERSION_NOTE:
            raise ConfigurationError(f"The note {name!r} is the store's own. Choose another name.")
        with self._transaction(write=True) as connection:
            connection.execute(delete(_meta).where(_meta.c.name == name))
            connection.execute(insert(_meta), {"name": name, "value": value})

    def note(self, name: str) -> str | None:
        """The text kept under a name, or `None`."""
        with self._transaction() as connection:
            return connection.scalar(select(_meta.c.value).where(_meta.c.name == name))

    def add_judge_reply(self, key: str, record: str) -> None:
        """Keep what came of asking a judge's model, under a hash of all that was asked.

        Raises:
            StoreError: If the store cannot be written.
        """
        with self._transaction(write=True) as connection:
            _replies.create(connection, checkfirst=True)
            connection.execute(delete(_replies).where(_replies.c.key == key))
            connection.execute(insert(_replies), {"key": key, "record": record})

    def judge_reply(self, key: str) -> str | None:
        """What `add_judge_reply` kept under a key, or `None`."""
        with self._transaction() as connection:
            if not sqlalchemy.inspect(connection).has_table(_replies.name):
                return None
            return connection.scalar(select(_replies.c.record).where(_replies.c.key == key))

    # --- reading --------------------------------------------------------------------------------

    def episodes(
        self,
        *,
        status: str | None = None,
        task: str | None = None,
        agent_name: str | None = None,
        judge: str | None = None,
    ) -> Iterator[Episode]:
        """Iterate over episodes, by task id and then key, reading a page at a time.

        Args:
            status: Only those of this status: "complete", "failed" or "judge_failed".
            task: Only those of the task with this id.
            agent_name: Only those in which some seat was played by an agent of this name.
            judge: Only those with a verdict of the judge of this name.

        Raises:
            ConfigurationError: For an unknown status.
            StoreError: If the store or a record in it cannot be read.
        """
        query = _ordered(select(_episodes.c.task_id, _episodes.c.key, _episodes.c.record), status)
        if task is not None:
            query = query.where(_episodes.c.task_id == task)
        if agent_name is not None:
            query = query.where(_episodes.c.names.contains(json.dumps(agent_name), autoescape=True))
        if judge is not None:
            given = select(_verdicts.c.key).where(_verdicts.c.key == _episodes.c.key, _verdicts.c.judge == judge)
            query = query.where(given.exists())
        for episode in self._pages(query):
            # LIKE ignores case in SQLite and sees only text, so the names are compared once more.
            if agent_name is None or agent_name in episode.agents.values():
                yield episode

    def _pages(self, query: Select[tuple[str, str, str]]) -> Iterator[Episode]:
        place = sqlalchemy.tuple_(_episodes.c.task_id, _episodes.c.key)
        page = query.limit(_PAGE)
        while True:
            # One short transaction a page: a reader that takes its time holds nobody up.
            with self._transaction() as connection:
                rows = connection.execute(page).all()
                verdicts = self._verdicts_of(connection, [row.key for row in rows])
            for row in rows:
                yield self._merged(row.key, row.record, verdicts.get(row.key, {}))
            if len(rows) < _PAGE:
                return
            page = query.where(place > sqlalchemy.tuple_(*map(sqlalchemy.literal, rows[-1][:2]))).limit(_PAGE)

    def get(self, key: str) -> Episode | None:
        """The episode of this key, or `None`."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Episode]:
        """The stored episodes among `keys`, by key."""
        found: dict[str, Episode] = {}
        for start in range(0, len(keys), _CHUNK):
            part = list(keys[start : start + _CHUNK])
            with self._transaction() as connection:
                query = select(_episodes.c.key, _episodes.c.record).where(_episodes.c.key.in_(part))
                records = {row.key: row.record for row in connection.execute(query)}
                verdicts = self._verdicts_of(connection, part)
            found |= {key: self._merged(key, record, verdicts.get(key, {})) for key, record in records.items()}
        return found

    def keys(self, *, status: str | None = None) -> list[str]:
        """Every key, or those of one status, in the order of `episodes`."""
        with self._transaction() as connection:
            return list(connection.scalars(_ordered(select(_episodes.c.key), status)))

    def statuses(self, keys: Sequence[str]) -> dict[str, str]:
        """Status by key, of those among `keys` that are stored."""
        found: dict[str, str] = {}
        for start in range(0, len(keys), _CHUNK):
            part = _episodes.c.key.in_(list(keys[start : start + _CHUNK]))
            with self._transaction() as connection:
                rows = connection.execute(select(_episodes.c.key, _episodes.c.status).where(part))
                found |= {row.key: row.status for row in rows}
        return found

    def judged(self, keys: Sequence[str], judge: str) -> set[str]:
        """Those among `keys` that have a verdict of the judge of this name."""
        found: set[str] = set()
        for start in range(0, len(keys), _CHUNK):
            part = _verdicts.c.key.in_(list(keys[start : start + _CHUNK]))
            with self._transaction() as connection:
                found |= set(connection.scalars(select(_verdicts.c.key).where(part, _verdicts.c.judge == judge)))
        return found

    def __len__(self) -> int:
        with self._transaction() as connection:
            return connection.scalar(select(sqlalchemy.func.count()).select_from(_episodes)) or 0

    def __bool__(self) -> bool:
        return True  # an empty store is a store

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key in self.statuses([key])

    def _verdicts_of(self, connection: Connection, keys: Sequence[str]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        query = select(_verdicts).where(_verdicts.c.key.in_(keys)).order_by(_verdicts.c.key, _verdicts.c.judge)
        for row in connection.execute(query):
            found.setdefault(row.key, {})[row.judge] = row.record
        return found

    def _merged(self, key: str, record: str, verdicts: Mapping[str, str]) -> Episode:
        episode = load_episode(record, self._where(key))
        if not verdicts:
            return episode
        try:
            merged = {judge: Verdict.model_validate(json.loads(text)) for judge, text in verdicts.items()}
        except (ValueError, ValidationError) as error:
            raise StoreError(f"{self._where(key)} has a verdict that cannot be read: {_first_line(error)}.") from error
        return episode.model_copy(update={"verdicts": merged})

    def _where(self, key: str) -> str:
        return f"Episode {key!r} in store {self.location!r}"

    # --- the database ---------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[Connection]:
        try:
            with self._engine.connect() as plain:
                connection = plain.execution_options(sotopia_write=write)
                with connection.begin():
                    yield connection
        except SQLAlchemyError as error:
            raise StoreError(_explain(self.location, error)) from error

    def _prepare(self, create: bool) -> None:
        """Check the schema's version, or make the tables."""
        with self._transaction() as connection:
            tables = set(sqlalchemy.inspect(connection).get_table_names())
        ours = {"episodes", "verdicts", "meta"}
        if not ours & tables:
            if not create:
                raise StoreError(
                    f"{self.location!r} holds no episode store. Pass one that rollout(..., store=...) wrote."
                )
            self._create()
        elif not ours <= tables:
            raise StoreError(
                f"{self.location!r} is a database with a table {min(ours & tables)!r} of its own, not an episode "
                "store. Pass another path or URL."
            )
        with self._transaction() as connection:
            version = connection.scalar(select(_meta.c.value).where(_meta.c.name == _VERSION_NOTE))
        if version is None or not version.isdecimal():
            raise StoreError(
                f"{self.location!r} has schema version {version!r}; it is not an episode store. Pass another path."
            )
        if int(version) > SCHEMA_VERSION:
            raise StoreError(
                f"Episode store {self.location!r} has schema version {version}; this package knows up to "
                f"{SCHEMA_VERSION}. Upgrade sotopia-env to use it, or pass another path."
            )

    def _create(self) -> None:
        with self._transaction(write=True) as connection:
            _schema.create_all(connection)  # leaves what another process made in the meantime
            if connection.scalar(select(_meta.c.value).where(_meta.c.name == _VERSION_NOTE)) is None:
                connection.execute(insert(_meta), {"name": _VERSION_NOTE, "value": str(SCHEMA_VERSION)})


class StoredEpisodes(Sequence[Episode]):
    """Episodes of a store in a given order, read when they are asked for.

    `rollout` returns one if it has a store, so that the episodes themselves are never all in memory.
    """

    def __init__(self, store: EpisodeStore, keys: Sequence[str]) -> None:
        self.store = store
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> StoredEpisodes: ...
    def __getitem__(self, index: int | slice) -> Episode | StoredEpisodes:
        if isinstance(index, slice):
            return StoredEpisodes(self.store, self.keys[index])
        return self._read([self.keys[index]])[0]

    def __iter__(self) -> Iterator[Episode]:
        for start in range(0, len(self.keys), _PAGE):
            yield from self._read(self.keys[start : start + _PAGE])

    def __repr__(self) -> str:
        return f"<{len(self)} episodes of {self.store!r}>"

    def _read(self, keys: Sequence[str]) -> list[Episode]:
        found = self.store.get_many(keys)
        for key in keys:
            if key not in found:
                raise StoreError(
                    f"Episode {key!r} is no longer in store {self.store.location!r}; was the file replaced?"
                )
        return [found[key] for key in keys]


# --- helpers --------------------------------------------------------------------------------------


def _row(episode: Episode) -> dict[str, str]:
    return {
        "key": episode.key,
        "task_id": episode.task.id,
        "pack": episode.task.pack,
        "family": episode.task.family,
        "split": episode.task.split,
        "status": episode.status,
        "names": json.dumps([episode.agents[agent] for agent in episode.task.agents]),
        "record": dump_json(episode.model_copy(update={"verdicts": {}})),
    }


def _verdict_row(key: str, verdict: Verdict) -> dict[str, str]:
    return {"key": key, "judge": verdict.judge, "record": dump_json(verdict)}


def _ordered(query: Select[Any], status: str | None) -> Select[Any]:
    if status is not None:
        if status not in STATUSES:
            raise ConfigurationError(unknown("status", status, STATUSES))
        query = query.where(_episodes.c.status == status)
    return query.order_by(_episodes.c.task_id, _episodes.c.key)


def shown(location: str) -> str:
    """A path or URL of a store as it may be printed: of a URL neither the password nor the values of its query."""
    scheme, separator, _ = location.partition("://")
    if not separator:
        return location
    try:
        url = sqlalchemy.make_url(location)
    except (SQLAlchemyError, ValueError):
        return f"{scheme}://..."
    if "@" in f"{url.host}{url.database}" and url.username is not None:
        return f"{scheme}://..."  # a bare @ in the password: the rest of it was read as host and database
    plain = url.set(query={}).render_as_string(hide_password=True)
    return plain + ("?" + "&".join(f"{name}=***" for name in url.query) if url.query else "")


def file_of(location: str) -> Path | None:
    """The file of a store's path or SQLite URL; `None` for other databases."""
    if "://" not in location:
        return Path(location)
    try:
        url = sqlalchemy.make_url(location)
    except (SQLAlchemyError, ValueError):
        return None
    return Path(url.database.removeprefix("file:")) if url.get_backend_name() == "sqlite" and url.database else None


def _connect(location: str | Path, create: bool) -> tuple[Engine, str]:
    """Make the engine, and the location as it may be shown."""
    text = str(location)
    if "://" not in text and text != ":memory:":
        _check_path(Path(text), create)
    try:
        url = sqlalchemy.make_url(text) if "://" in text else sqlalchemy.URL.create("sqlite", database=text)
        if url.get_backend_name() != "sqlite":
            return sqlalchemy.create_engine(url, pool_pre_ping=True), shown(text)
        options: dict[str, Any] = {"connect_args": {"timeout": _BUSY_SECONDS, "check_same_thread": False}}
        if url.database in (None, "", ":memory:"):
            # A database in memory is its one connection; the pool makes threads take turns with it.
            options |= {"poolclass": sqlalchemy.QueuePool, "pool_size": 1, "max_overflow": 0}
        engine = sqlalchemy.create_engine(url, **options)
    except ValueError as error:  # such as a port that is no number, which may be a part of the password
        raise StoreError(
            f"Episode store {shown(text)!r} cannot be opened: it is no URL. Write @, : and / in a password as %40, %3A "
            "and %2F."
        ) from error
    except (SQLAlchemyError, ImportError) as error:
        driver = isinstance(error, (ImportError, NoSuchModuleError))
        remedy = "Install its driver, such as 'psycopg'." if driver else "Expected a file path or an SQLAlchemy URL."
        raise StoreError(f"Episode store {shown(text)!r} cannot be opened: {_first_line(error)}. {remedy}") from error
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine, shown(text)


def _check_path(path: Path, create: bool) -> None:
    if path.is_dir():
        raise StoreError(f"Episode store {str(path)!r} is a folder. Pass the path of a file in it, such as 'runs.db'.")
    if not path.parent.is_dir():
        raise StoreError(
            f"Episode store {str(path)!r} cannot be made: there is no folder {str(path.parent)!r}. Make it first."
        )
    if not create and not path.exists():
        raise StoreError(
            f"There is no episode store {str(path)!r}. Pass the path of one that rollout(..., store=...) wrote."
        )


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver's own transactions would begin only at the first write, after reading: begin ourselves.
    connection.isolation_level = None
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            # Asked first, for switching needs a lock. A file system that cannot do WAL keeps its mode.
            if connection.execute("PRAGMA journal_mode").fetchone()[0] not in ("wal", "memory"):
                connection.execute("PRAGMA journal_mode=WAL")
            break
        except connection.OperationalError as error:
            # SQLite does not wait by itself here if another process switches the same new file.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    connection.execute("PRAGMA synchronous=NORMAL")


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: one that reads first and locks later can be refused without waiting.
    write = connection.get_execution_options().get("sotopia_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


_REMEDIES = (
    ("not a database", "Pass the path of an episode store, or of a new file."),
    ("malformed", "The file is damaged; move it away, or recover what is left with the sqlite3 tool's .recover."),
    ("locked", "Another process is writing to it; wait until it is done."),
    ("readonly", "Check that the file and its folder are writable."),
    ("unable to open", "Check that the file and its folder exist and are writable."),
    ("full", "Free some disk space, then run again: what was committed is kept."),
)


def _explain(location: str, error: SQLAlchemyError) -> str:
    """Word a database error in one line; never with the statement, whose values are the records."""
    text = _first_line(getattr(error, "orig", None) or error)
    remedy = next((remedy for sign, remedy in _REMEDIES if sign in text), "Check the location and its permissions.")
    return f"Episode store {location!r} failed: {text}. {remedy}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
