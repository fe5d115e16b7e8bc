"""From texts to the batches of a network: passage text, tokenizers, splicing, inputs.

May import: errors, storage, models.folders, models.hardware, models.protocols.
"""
