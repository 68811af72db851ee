"""The policy played without a cluster."""
