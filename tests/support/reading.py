"""A reader of the newest generation, in a process of its own."""

from __future__ import annotations

import json
import os
import time

from nightrank.generations.results import generation_of, open_lake, read_results
from nightrank.storage.dataset import FileRef
from nightrank.storage.reader import Reader


def loop(root: str, history: str, stop: str) -> None:
    """Reads what is current until told to stop; any failure or mixture ends the process."""
    with open(history, "w", buffering=1) as file:
        while not os.path.exists(stop):
            store = open_lake(root, "tiny")
            entry = generation_of(store)
            keep, number = entry.body["config"]["results"]["keep"], entry.generation
            table = read_results(root, "tiny", "ranked", number).to_table()
            assert table.num_rows == entry.body["counts"]["rows"]["ranked"]
            assert max(table["rank"].to_pylist()) == keep, "rows of another generation"
            refs = entry.body["files"]["ranked"]
            again = [
                Reader(store).table(FileRef(f["key"], f["size"], f["sha256"], f["rows"]))
                for f in refs
            ]
            assert sum(part.num_rows for part in again) == table.num_rows
            digest = "".join(f["sha256"] for f in refs)
            seen = {"generation": number, "digest": digest, "at": time.monotonic()}
            print(json.dumps(seen), file=file)
