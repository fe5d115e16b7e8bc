"""The run from plan to publication, read from top to bottom in `offline_rerank`.

May import: generations, stages and everything below.
"""
