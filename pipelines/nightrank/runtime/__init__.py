"""How stages are executed; knows storage, knows no stage."""
