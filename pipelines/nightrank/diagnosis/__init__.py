"""The checks of `doctor` (machine, lake, inputs, models), and the suggestions of `init`.

May import: generations, stages and everything below.
"""
