"""Measures, lifts with intervals, movements and the report; pure functions of tables.

May import: errors.
"""
