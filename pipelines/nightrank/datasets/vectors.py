"""Vectors in Arrow tables: a column of rows and one of fixed-size lists."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from nightrank.storage import schemas


def to_table(rows: np.ndarray, vectors: np.ndarray) -> pa.Table:
    """Rows (int32) and vectors (float32, n x d) as an embeddings table."""
    dimension = vectors.shape[1]
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(flat, dimension)
    return pa.table([pa.array(rows, pa.int32()), lists], schema=schemas.vectors(dimension))


def to_numpy(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `to_table`."""
    column = table["vector"].combine_chunks()
    dimension = column.type.list_size
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return table["row"].to_numpy(), flat.reshape(-1, dimension)
