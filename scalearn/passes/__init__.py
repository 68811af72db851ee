"""One pass of several jobs' rows through the backbone: batches, outputs, scores."""
