"""The command line, one file per verb.

May import: everything.
"""
