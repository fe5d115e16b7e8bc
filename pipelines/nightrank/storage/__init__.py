"""Datasets, records and logs on a local disk or S3; knows nothing of models, FAISS or Ray."""
