"""Published results for other systems: Hive folders, Iceberg tables, TREC runs.

May import: generations, storage.
"""
