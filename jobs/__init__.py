"""What an operator runs: one file per verb."""
