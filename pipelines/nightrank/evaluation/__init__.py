"""Measures against judgements, lifts with intervals, movements and the HTML report.

Pure functions of tables. May import: errors.
"""
