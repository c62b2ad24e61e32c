"""Parquet and Arrow files of tasks and episodes, written and read a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_env.errors import SotopiaEnvError, StoreError, one_line
from sotopia_env.interop.columns import Batcher, arrow, kind_of, unpack
from sotopia_env.tasks import Record

if TYPE_CHECKING:
    from sotopia_env.episodes import Episode
    from sotopia_env.tasks import Task

LARGEST_GROUP = 1 << 30
"""Bytes that one row group of a Parquet file may take when read; ours take some megabytes."""

READ_ROWS = 64
"""Rows that are turned into records at once."""

PARQUET_MAGIC = b"PAR1"


class _BatchFile:
    """A file of record batches that is being written, a record at a time."""

    def __init__(self, kind: type[Record], files: ExitStack) -> None:
        self._batcher = Batcher(kind)
        self._open = files.enter_context(ExitStack())
        self._writer: Any = None

    def add(self, record: Record) -> None:
        """Write one record, or keep it for the next batch."""
        for batch in self._batcher.add(record):
            self._writer.write_batch(batch)

    def finish(self) -> None:
        """Write what waits, and the end of the file."""
        for batch in self._batcher.rest():
            self._writer.write_batch(batch)
        self._open.close()


class ParquetFile(_BatchFile):
    """A Parquet file that is being written, a record at a time.

    Args:
        path: Where.
        kind: `Task` or `Episode`.
        files: Closes the file if it is not finished.
    """

    def __init__(self, path: Path, kind: type[Record], files: ExitStack) -> None:
        arrow()
        import pyarrow.parquet

        super().__init__(kind, files)
        made = pyarrow.parquet.ParquetWriter(path, self._batcher.schema, compression="zstd")
        self._writer = self._open.enter_context(made)


class ArrowFile(_BatchFile):
    """An Arrow file, as the library `datasets` keeps them, that is being written; arguments as of `ParquetFile`."""

    def __init__(self, path: Path, kind: type[Record], files: ExitStack) -> None:
        super().__init__(kind, files)
        sink = self._open.enter_context(arrow().OSFile(str(path), "wb"))
        self._writer = self._open.enter_context(arrow().ipc.new_stream(sink, self._batcher.schema))


def is_parquet(path: str | Path) -> bool:
    """Whether a file begins as Parquet files do."""
    with Path(path).open("rb") as file:
        return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC


def read_parquet(path: str | Path) -> Iterator[Task | Episode]:
    """Iterate over the tasks or episodes of a Parquet file, told apart by their columns.

    Raises:
        StoreError: If the file cannot be read, or holds neither.
        TaskFormatError: If a row is no task.
        MissingExtraError: If pyarrow is not installed.
    """
    pa = arrow()
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            _check_groups(path, file.metadata)
            yield from _records(path, file.schema_arrow.names, file.iter_batches(batch_size=READ_ROWS))
    except SotopiaEnvError:
        raise
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:  # ValueError: names that are no UTF-8
        raise StoreError(f"{str(path)!r} cannot be read as Parquet: {one_line(error)}.") from error


def read_arrow(path: str | Path) -> Iterator[Task | Episode]:
    """Iterate over the tasks or episodes of one Arrow file of a saved dataset; errors as `read_parquet`."""
    pa = arrow()
    try:
        with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as stream:
            yield from _records(path, stream.schema.names, stream)
    except SotopiaEnvError:
        raise
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        raise StoreError(f"{str(path)!r} cannot be read as an Arrow stream: {one_line(error)}.") from error


def _check_groups(path: str | Path, metadata: Any) -> None:
    for number in range(metadata.num_row_groups):
        size = metadata.row_group(number).total_byte_size
        if size > LARGEST_GROUP:
            raise StoreError(
                f"{str(path)!r} has a row group of {size} bytes; at most {LARGEST_GROUP} are read at once. "
                "Write it again with smaller row groups."
            )


def _records(path: str | Path, names: list[str], found: Any) -> Iterator[Any]:
    kind = kind_of(names)
    if kind is None:
        raise StoreError(
            f"{str(path)!r} has the columns {names!r:.200}, which are neither those of tasks nor those of episodes. "
            "See `sotopia-env export --help` for what writes them."
        )
    row = 0
    for batch in found:
        batch.validate(full=True)  # a damaged file can hold text that is no UTF-8, or lists without an end
        for start in range(0, batch.num_rows, READ_ROWS):
            for values in batch.slice(start, READ_ROWS).to_pylist():
                row += 1
                yield unpack(kind, values, f"{path}, row {row}")
