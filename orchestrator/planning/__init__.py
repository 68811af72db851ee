"""What runs next, what runs together and what it costs: one policy, for live runs, plans and simulations."""
