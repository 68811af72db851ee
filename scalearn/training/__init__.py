"""The training loop over a pack, and what a job leaves."""
