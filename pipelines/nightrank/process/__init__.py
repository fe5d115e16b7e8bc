"""What a process sets up before it imports anything else: search path, home folder.

May import: nothing of this package.
"""
