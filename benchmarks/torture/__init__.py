"""What no test suite has the time for: kills at random, simulated nights, fuzzing, for hours."""
