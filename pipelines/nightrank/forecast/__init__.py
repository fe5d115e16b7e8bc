"""What a run will cost before it starts: rows, units, seconds, bytes, dollars.

May import: flow, generations and everything below.
"""
