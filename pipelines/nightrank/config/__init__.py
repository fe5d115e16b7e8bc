"""The experiment as its YAML file declares it: keys, their reference, file reading, redaction.

May import: errors, process.
"""
