"""Files that are read and written with care: JSON, tensors, weights."""
