"""Plans and generations: planning, the gate, retention, rollbacks, verification, results.

May import: stages and everything below.
"""
