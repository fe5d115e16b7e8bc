"""The user's files: listing, splits, JSONL, TSV, CSV, Parquet, validation, judgements.

May import: errors, config, storage.
"""
