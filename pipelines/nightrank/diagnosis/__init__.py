"""What `doctor` checks: inputs, models, the lake, the machine.

May import: generations, stages and everything below.
"""
