"""Everything that trains a reranker or exports one.

May import: errors, storage, models and its packages.
"""
