"""Everything that trains a reranker or exports one.

May import: errors, config, storage, retrieval, models, runtime.
"""
