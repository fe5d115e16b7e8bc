"""Fine-tunes a reranker, and exports models for other programs.

May import: errors, config, storage, retrieval, models, runtime.
"""
