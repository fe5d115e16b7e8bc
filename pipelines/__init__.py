"""Nightrank: offline retrieve-then-rerank, from a corpus and queries to ranked Parquet."""
