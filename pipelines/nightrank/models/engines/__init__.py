"""Inference: torch and OpenVINO engines of encoders and rerankers.

May import: errors, storage, models.text, models.folders, models.hardware, models.protocols.
"""
