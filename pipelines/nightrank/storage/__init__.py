"""The lake: a store of files, datasets of shards with records, logs of generations.

May import: errors, config, process.
"""
