"""Registers a generation as a snapshot of an Apache Iceberg table; the only pyiceberg import.

Copies of the files are written first, under unique names. One commit then replaces the table's
rows, so that a reader sees one generation or the other. The summary of a snapshot names its
generation: `nightrank.generation`, `.plan_id`, `.time` and `.write_id`.
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
# The clients of catalogs and stores, whose errors pyiceberg does not translate.
CLIENTS = ("sqlalchemy", "requests", "botocore")
NAME_MAPPING = "schema.name-mapping.default"


@dataclass(frozen=True)
class Registered:
    """The snapshot of a generation: its id, and whether this call committed it."""

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
    """Replaces the rows of an Iceberg table by those of a generation, in one commit.

    Args:
        store: the lake.
        entry: a published generation.
        identifier: `namespace.table`; created where it does not exist.
        name: of the experiment; a table holds one.
        table: `ranked`, `queries`, `rejects` or `changes`.
        catalog: its name in the configuration of pyiceberg; the default catalog otherwise.

    Returns:
        The snapshot. The table is not changed where its current snapshot is this publication.

    Raises:
        NightrankError: E_STORE_UNFIT without pyiceberg; E_CONFIG for a catalog that cannot be
            opened; E_USAGE for a bad name or a table of another experiment; E_SCHEMA where columns
            changed their types; E_CONFLICT where another writer committed in the meantime;
            E_STORE_RETRY where the outcome of the commit is unknown.
    """
    file_list(store, entry, table)  # Refuses an unknown table.
    if not all(identifier.partition(".")):
        do = "give the table as namespace.table"
        what = f"expected a namespace and a table, found {identifier!r}"
        raise NightrankError("E_USAGE", what, "--iceberg", do)
    opened = _catalog(catalog)
    with _translated_errors(identifier):
        iceberg = _table(opened, identifier, name, table)
        current = iceberg.current_snapshot()
        if current and current.summary and current.summary.get(WRITE_ID) == entry.body["write_id"]:
            return Registered(current.snapshot_id, False)
        written: list[str] = []
        committing = False
        try:
            schema = _copy(store, entry, table, iceberg, written)
            committing = True
            _commit(iceberg, entry, schema, written)
        except Exception as error:
            if not committing or isinstance(error, _certain_failures()):
                for path in written:
                    with contextlib.suppress(OSError):
                        iceberg.io.delete(path)
            raise
        return Registered(iceberg.current_snapshot().snapshot_id, True)


def _catalog(name: str | None) -> Any:
    try:
        from pyiceberg.catalog import load_catalog
    except ImportError:
        what = "expected pyiceberg for Iceberg tables, found it not installed"
        do = "pip install 'nightrank[iceberg]'"
        raise NightrankError("E_STORE_UNFIT", what, "--iceberg", do) from None
    try:
        return load_catalog(name)
    except Exception as error:  # Of any kind: catalogs use their own libraries.
        what = f"cannot open Iceberg catalog {name or 'default'!r}: {error}"
        do = "describe it in .pyiceberg.yaml or in PYICEBERG_CATALOG__<NAME>__URI"
        raise NightrankError("E_CONFIG", what, "--catalog", do) from None


def _table(catalog: Any, identifier: str, name: str, table: str) -> Any:
    """The table; created without columns where missing, refused if it has another owner."""
    from pyiceberg.schema import Schema

    expected = {OWNER: name, KIND: table}
    if not catalog.table_exists(identifier):
        catalog.create_namespace_if_not_exists(identifier.rpartition(".")[0])
        catalog.create_table_if_not_exists(identifier, Schema(), properties=expected)
    iceberg = catalog.load_table(identifier)
    properties = {key: iceberg.properties.get(key) for key in expected}
    if properties != expected:
        kind, owner = properties[KIND] or "other", properties[OWNER] or "another owner"
        what = f"expected the {table} rows of experiment {name!r}, found {kind} rows of {owner!r}"
        do = "choose another table: all rows of this one would be replaced"
        raise NightrankError("E_USAGE", what, identifier, do)
    return iceberg


def _copy(store: Store, entry: Entry, table: str, iceberg: Any, written: list[str]) -> pa.Schema:
    """Copies the verified files to the table's location, and adds their paths to `written`."""
    read, schema, folder = Reader(store), pa.schema([]), uuid.uuid4().hex
    for number, file in enumerate(entry.body["files"][table]):
        data = read.buffer(FileRef(**file))
        schema = pq.read_schema(pa.BufferReader(data)).remove_metadata()
        part = f"generation-{entry.generation:06d}-{folder}-{number:05d}.parquet"
        path = iceberg.location_provider().new_data_location(part)
        written.append(path)
        with iceberg.io.new_output(path).create() as out:
            out.write(data.to_pybytes())
    return schema


def _commit(iceberg: Any, entry: Entry, schema: pa.Schema, paths: list[str]) -> None:
    """Replaces columns and rows: one snapshot, one change of the table's metadata."""
    from pyiceberg.exceptions import ResolveError, ValidationError
    from pyiceberg.io.pyarrow import parquet_file_to_data_file

    summary = {key: str(entry.body[key]) for key in ("plan_id", "time", "write_id")}
    summary = {f"nightrank.{key}": value for key, value in summary.items()}
    summary["nightrank.generation"] = str(entry.generation)
    with iceberg.transaction() as change:
        try:
            with change.update_schema() as columns:
                columns.union_by_name(schema)
            mapping = change.table_metadata.schema().name_mapping.model_dump_json()
            # The lake's files have no field ids: columns are matched by name.
            change.set_properties(**{NAME_MAPPING: mapping})
            files = [
                parquet_file_to_data_file(iceberg.io, change.table_metadata, path) for path in paths
            ]
        except (ResolveError, ValidationError, ValueError, TypeError) as error:
            what = f"the table's columns cannot hold those of this generation: {error}"
            do = "choose another table"
            raise NightrankError("E_SCHEMA", what, ".".join(iceberg.name()), do) from None
        # Not `overwrite()`: it deletes in one snapshot and appends in the next, and a query of a
        # time between them would read an empty table.
        with change.update_snapshot(snapshot_properties=summary).overwrite() as snapshot:
            for task in iceberg.scan().plan_files():
                snapshot.delete_data_file(task.file)
            for file in files:
                snapshot.append_data_file(file)


def _certain_failures() -> tuple[type[Exception], ...]:
    """Errors of a commit after which no snapshot names the copies; after others one may."""
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    return NightrankError, CommitFailedException, ValidationException


@contextlib.contextmanager
def _translated_errors(where: str) -> Iterator[None]:
    """Raises the errors of catalogs and stores as NightrankError."""
    from pyiceberg import exceptions as known

    try:
        yield
    except NightrankError:
        raise
    except (known.CommitFailedException, known.ValidationException) as error:
        do = "run the same command again"
        what = f"another writer has committed to the table: {error}"
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
        do = "run the same command again: it first reads the current snapshot"
        raise NightrankError("E_STORE_RETRY", f"{error!r}", where, do) from None
