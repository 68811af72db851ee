"""What jobs leave in a store."""
