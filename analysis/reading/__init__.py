"""Stores and MLflow to one frame."""
