"""What several stages read of each other's datasets: rows, vectors, lists, judgements.

May import: errors, config, storage, inputs, evaluation, retrieval, models.
"""
