"""A model's folder: its files and digests, what it declares, and the size of its network.

May import: errors, storage, models.hardware, models.protocols.
"""
