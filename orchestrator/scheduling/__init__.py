"""The policy: what runs next, and what runs together."""
