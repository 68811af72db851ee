"""Read stores and MLflow into one frame."""
