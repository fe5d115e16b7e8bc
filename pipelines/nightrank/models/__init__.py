"""Models by name: what a folder means, and the encoder or reranker that it becomes.

May import: errors, storage, and its own packages: engines above text above folders.
"""
