"""Several drivers in one store: signs of life, claims, events."""
