"""Bi-encoders and cross-encoders."""
