"""First stage: FAISS, BM25, exact scores, fusion, the order of lists; arrays in, arrays out.

May import: errors, storage.
"""
