"""What reranking bought: measures, movement, intervals."""
