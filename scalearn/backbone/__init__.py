"""Which encoders there are, how they are loaded, and where modules can be added to them."""
