"""Writes the example's inputs as Parquet into a bucket, which is created if it does not exist."""

from pathlib import Path

import pyarrow.json
import pyarrow.parquet as pq
import s3fs

BUCKET = "nightrank-example"
DATA = Path("../data")

# Credentials and the endpoint come from the environment, as for Nightrank itself.
store = s3fs.S3FileSystem()
if not store.exists(BUCKET):
    store.mkdir(BUCKET)
for file in sorted(DATA.glob("corpus/*.jsonl")):
    table = pyarrow.json.read_json(file)
    table = table.rename_columns(["article", "title", "body", "team", "updated"])
    pq.write_table(table, f"{BUCKET}/inputs/corpus/{file.stem}.parquet", filesystem=store)
queries = pyarrow.json.read_json(DATA / "queries.jsonl")
pq.write_table(queries, f"{BUCKET}/inputs/queries.parquet", filesystem=store)
print("\n".join(store.find(f"{BUCKET}/inputs")))
