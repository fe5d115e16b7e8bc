"""Long tests: random kills, simulated incremental runs and fuzzing, for hours."""
