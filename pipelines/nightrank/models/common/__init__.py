"""What all engines share: protocols, model folders, settings, tokenizers, batches.

May import: errors, storage.
"""
