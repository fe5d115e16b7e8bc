"""First stage: FAISS, BM25, exact scores, fusion and ranking; it takes and returns arrays.

May import: errors, storage.
"""
