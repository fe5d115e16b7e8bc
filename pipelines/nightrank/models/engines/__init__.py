"""Inference: torch and OpenVINO engines of encoders and rerankers.

May import: errors, storage, models.common.
"""
