"""Models by name: what a folder means, and the encoder or reranker that it becomes.

May import: errors, storage, models.common, models.engines.
"""
