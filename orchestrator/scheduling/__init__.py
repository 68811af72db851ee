"""The policy: which jobs run next, and which run together."""
