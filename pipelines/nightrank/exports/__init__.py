"""Published results in other forms: Hive folders, Iceberg tables, TREC runs.

May import: generations, storage.
"""
