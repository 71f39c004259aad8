"""Reader of the prediction log: its parts in the object store, and the rows that each of them has."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_tasks.core.ports import ObjectInfo, ObjectStore
from pipeline_tasks.errors import DataCorrupt, printable

READS = 8
ANSWERED = (pc.field("kind") == "prediction") & (pc.field("status") == 200)
T = TypeVar("T")
Row = dict[str, Any]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class StoredPart:
    """One part of the log with its bytes: Parquet rows of predictions and feedback, as the gateway writes them."""

    object_key: str
    data: bytes

    def names(self) -> list[str]:
        """Return the columns that the part has.

        Raises:
            DataCorrupt: the bytes are no Parquet.
        """
        try:
            return list(pq.read_schema(io.BytesIO(self.data)).names)
        except (pa.ArrowException, OSError) as error:
            raise self._no_part(error) from error

    def table(self, columns: list[str], *, where: Any = None) -> pa.Table:
        """Return these columns of the rows that the pyarrow expression `where` lets through.

        Raises:
            DataCorrupt: the bytes are no Parquet with these columns.
        """
        try:
            return pq.read_table(io.BytesIO(self.data), columns=columns, filters=where)
        except (pa.ArrowException, OSError) as error:
            if missing := sorted(set(columns) - set(self.names())):
                names = ", ".join(missing)
                text = f"{self.object_key} must have the columns of the prediction log (got no {names})."
                raise DataCorrupt(text) from error
            raise self._no_part(error) from error

    def texts(self, columns: list[str], *, where: Any = None) -> pa.Table:
        """Return a table as `table` does, every text of which is UTF-8.

        Raises:
            DataCorrupt: as above, or a text is none.
        """
        table = self.table(columns, where=where)
        try:
            table.validate(full=True)
        except pa.ArrowInvalid as error:
            raise DataCorrupt(f"{self.object_key} must hold texts in UTF-8 (got {error}).") from error
        return table

    def rows(self, columns: list[str], *, where: Any = None) -> list[Row]:
        """Return rows as `table` does; a text that is not UTF-8 is its bytes."""
        table = self.table(columns, where=where)
        try:
            return list(table.to_pylist())
        except ValueError:  # one string that is not UTF-8
            return [{name: _value(table[name][row]) for name in table.column_names} for row in range(table.num_rows)]

    def _no_part(self, error: Exception) -> DataCorrupt:
        return DataCorrupt(
            f"{self.object_key} must be a Parquet part (got {type(error).__name__}: {printable(error)})."
        )


def moment_of(row: Mapping[str, Any]) -> dt.datetime | None:
    """Return the time of a row; None where it is none, which the monitor's import names."""
    try:
        return dt.datetime.fromtimestamp(row["at_ms"] / 1000, dt.UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _value(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except ValueError:
        return cell.as_buffer().to_pybytes()


class PredictionLog:
    """The log of one project."""

    def __init__(self, store: ObjectStore, project: str) -> None:
        self._store = store
        self._prefix = f"predictions/{project}/"

    def parts(self) -> Iterator[ObjectInfo]:
        """Yield the parts' names and sizes, the oldest day first."""
        return self._store.list(self._prefix)

    def object_keys(self, *, since: dt.date = dt.date.min) -> list[str]:
        """Return the names of the parts from a day on (UTC), the oldest day first."""
        return [info.key for info in self.parts() if info.key.removeprefix(self._prefix)[:10] >= since.isoformat()]

    def get(self, object_key: str) -> StoredPart:
        """Return a part; raises DataCorrupt when its bytes are not those that its name says."""
        return StoredPart(object_key, self._store.get(object_key))

    def each(
        self,
        keys: Iterable[str],
        read: Callable[[StoredPart], T],
        *,
        reads: int = READS,
        damaged: Callable[[str], None] | None = None,
    ) -> Iterator[T]:
        """Yield what is read of each part, in the order of the keys, `reads` of them at a time.

        One that is damaged is passed over and told, to the log or as its name to `damaged`.
        """

        def read_one(key: str) -> T | DataCorrupt:
            try:
                return read(self.get(key))
            except DataCorrupt as error:
                return error

        names = iter(keys)
        with ThreadPoolExecutor(reads, thread_name_prefix="read-log") as pool:
            ahead = deque((key, pool.submit(read_one, key)) for key in islice(names, 2 * reads))
            while ahead:
                key, future = ahead.popleft()
                outcome = future.result()
                if not isinstance(outcome, DataCorrupt):
                    yield outcome
                elif damaged is None:
                    _log.warning("a part of the log is passed over: %s", outcome)
                else:
                    damaged(key)
                ahead.extend((key, pool.submit(read_one, key)) for key in islice(names, 1))
