"""Information retrieval on arrays: ranking, FAISS, measures, TREC files."""
