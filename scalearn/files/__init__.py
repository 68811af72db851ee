"""Safe reading and writing of files: JSON, tensors, weights."""
