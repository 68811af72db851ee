"""One pass of several jobs through the backbone: batches, outputs, scores."""
