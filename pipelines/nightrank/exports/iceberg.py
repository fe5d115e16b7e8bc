"""The door to pyiceberg: a published generation as one snapshot of an Apache Iceberg table.

The table's own copies of the files are written first, under names of their own; one commit then
takes the rows of before out and these in, so that a reader sees one generation or the other. What
a snapshot holds stands in its summary, under `nightrank.generation`, `.plan_id`, `.time` and
`.write_id`.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightrank.errors import NightrankError
from nightrank.generations.results import file_list
from nightrank.storage.dataset import FileRef
from nightrank.storage.log import Entry
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store

OWNER, KIND, WRITE_ID = "nightrank.experiment", "nightrank.table", "nightrank.write_id"
# What catalogs reach their servers with; pyiceberg lets these libraries' errors through.
CLIENTS = ("sqlalchemy", "requests", "botocore")
NAME_MAPPING = "schema.name-mapping.default"


@dataclass(frozen=True)
class Registered:
    """Where a generation stands in the table: the snapshot's id, and whether this call made it."""

    snapshot_id: int
    new: bool


def register(
    store: Store,
    entry: Entry,
    identifier: str,
    name: str,
    table: str = "ranked",
    catalog: str | None = None,
) -> Registered:
    """Makes an Iceberg table hold exactly one generation's rows, in one commit.

    Args:
        store: the lake.
        entry: a published generation.
        identifier: `namespace.table`; made where it does not exist.
        name: the experiment's; a table holds one.
        table: `ranked`, `queries`, `rejects` or `changes`.
        catalog: its name in pyiceberg's configuration; that one's default otherwise.

    Returns:
        The snapshot. Nothing is done where the current one is this very publication.

    Raises:
        NightrankError: E_STORE_UNFIT without pyiceberg; E_CONFIG for a catalog that cannot be
            opened; E_USAGE for a bad name or a table that is not this experiment's; E_SCHEMA where
            columns changed their types; E_CONFLICT where somebody else committed meanwhile;
            E_STORE_RETRY where it is not known whether the commit went through.
    """
    file_list(store, entry, table)  # Refuses an unknown table.
    if not all(identifier.partition(".")):
        do = "give it as namespace.table"
        raise NightrankError("E_USAGE", f"no Iceberg table {identifier!r}", "--iceberg", do)
    opened = _catalog(catalog)
    with _told(identifier):
        held = _table(opened, identifier, name, table)
        current = held.current_snapshot()
        if current and current.summary and current.summary.get(WRITE_ID) == entry.body["write_id"]:
            return Registered(current.snapshot_id, False)
        written: list[str] = []
        committing = False
        try:
            schema = _copy(store, entry, table, held, written)
            committing = True
            _commit(held, entry, schema, written)
        except Exception as error:
            if not committing or isinstance(error, _certain_failures()):
                for path in written:
                    with contextlib.suppress(OSError):
                        held.io.delete(path)
            raise
        return Registered(held.current_snapshot().snapshot_id, True)


def _catalog(name: str | None) -> Any:
    try:
        from pyiceberg.catalog import load_catalog
    except ImportError:
        what = "Iceberg tables need pyiceberg, which is not installed"
        do = "pip install 'nightrank[iceberg]'"
        raise NightrankError("E_STORE_UNFIT", what, "--iceberg", do) from None
    try:
        return load_catalog(name)
    except Exception as error:  # Whatever its kind: catalogs bring libraries of their own.
        shown = f"cannot open Iceberg catalog {name or 'default'!r}: {error}"
        do = "describe it in .pyiceberg.yaml or in PYICEBERG_CATALOG__<NAME>__URI"
        raise NightrankError("E_CONFIG", shown, "--catalog", do) from None


def _table(catalog: Any, identifier: str, name: str, table: str) -> Any:
    """The table, made without columns where it is missing; refused where it is another's."""
    from pyiceberg.schema import Schema

    ours = {OWNER: name, KIND: table}
    if not catalog.table_exists(identifier):
        catalog.create_namespace_if_not_exists(identifier.rpartition(".")[0])
        catalog.create_table_if_not_exists(identifier, Schema(), properties=ours)
    held = catalog.load_table(identifier)
    found = {key: held.properties.get(key) for key in ours}
    if found != ours:
        what = f"expected the {table} rows of experiment {name!r}, "
        what += f"found {found[KIND] or 'other'} rows of {found[OWNER] or 'somebody else'!r}"
        do = "choose another table: all rows of this one would be replaced"
        raise NightrankError("E_USAGE", what, identifier, do)
    return held


def _copy(store: Store, entry: Entry, table: str, held: Any, written: list[str]) -> pa.Schema:
    """Copies the verified files under the table's location; `written` grows as it goes."""
    read, schema, folder = Reader(store), pa.schema([]), uuid.uuid4().hex
    for number, file in enumerate(entry.body["files"][table]):
        data = read.buffer(FileRef(**file))
        schema = pq.read_schema(pa.BufferReader(data)).remove_metadata()
        part = f"generation-{entry.generation:06d}-{folder}-{number:05d}.parquet"
        path = held.location_provider().new_data_location(part)
        written.append(path)
        with held.io.new_output(path).create() as out:
            out.write(data.to_pybytes())
    return schema


def _commit(held: Any, entry: Entry, schema: pa.Schema, paths: list[str]) -> None:
    """Columns, rows out and rows in: one snapshot, one swap of the table's metadata."""
    from pyiceberg.exceptions import ResolveError, ValidationError
    from pyiceberg.io.pyarrow import parquet_file_to_data_file

    summary = {key: str(entry.body[key]) for key in ("plan_id", "time", "write_id")}
    summary = {f"nightrank.{key}": value for key, value in summary.items()}
    summary["nightrank.generation"] = str(entry.generation)
    with held.transaction() as change:
        try:
            with change.update_schema() as columns:
                columns.union_by_name(schema)
            mapping = change.table_metadata.schema().name_mapping.model_dump_json()
            # Files are the lake's, without field ids: columns are told by their names.
            change.set_properties(**{NAME_MAPPING: mapping})
            files = [
                parquet_file_to_data_file(held.io, change.table_metadata, path) for path in paths
            ]
        except (ResolveError, ValidationError, ValueError, TypeError) as error:
            what = f"the table's columns do not take this generation's: {error}"
            do = "choose another table"
            raise NightrankError("E_SCHEMA", what, ".".join(held.name()), do) from None
        # Not `overwrite()`: that deletes in one snapshot and appends in the next, and who travels
        # to a time between them finds an empty table.
        with change.update_snapshot(snapshot_properties=summary).overwrite() as snapshot:
            for task in held.scan().plan_files():
                snapshot.delete_data_file(task.file)
            for file in files:
                snapshot.append_data_file(file)


def _certain_failures() -> tuple[type[Exception], ...]:
    """After these of a commit no snapshot names the copies; after others one might: they stay."""
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    return NightrankError, CommitFailedException, ValidationException


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    """Turns what catalogs and stores raise into errors told in one line."""
    from pyiceberg import exceptions as known

    try:
        yield
    except NightrankError:
        raise
    except (known.CommitFailedException, known.ValidationException) as error:
        do = "run the same command again"
        what = f"somebody else has committed to the table: {error}"
        raise NightrankError("E_CONFLICT", what, where, do) from None
    except (known.UnauthorizedError, known.ForbiddenError, PermissionError) as error:
        do = "renew the catalog's or the store's credentials"
        raise NightrankError("E_AUTH", f"access denied: {error}", where, do) from None
    except Exception as error:
        known_kind = isinstance(
            error, known.CommitStateUnknownException | known.RESTError | OSError
        )
        if not known_kind and type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        do = "run the same command again: it looks first"
        raise NightrankError("E_STORE_RETRY", f"{error!r}", where, do) from None
