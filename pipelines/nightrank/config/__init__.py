"""The experiment as its YAML file declares it: schema, defaults, file reading, redaction.

May import: errors, process.
"""
