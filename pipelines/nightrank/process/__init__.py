"""What a process sets up before it imports anything else: module search path, home folder.

May import: nothing of this package.
"""
