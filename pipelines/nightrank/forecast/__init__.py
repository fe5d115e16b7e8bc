"""What a run will take, told before anything is spent: counts, bytes, memory, time, requests."""
