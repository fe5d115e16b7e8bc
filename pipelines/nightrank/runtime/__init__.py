"""Executors, worker pools, units, budgets, events and progress.

May import: errors, config, process, storage, models.
"""
