"""The policy, simulated without a cluster."""
