"""The Python API: load a config, run, forecast, evaluate and read results, as typed values.

May import: everything but cli.
"""
