"""The lake: files on a local disk or S3, datasets of shards with records, logs of generations.

May import: errors, config, process.
"""
