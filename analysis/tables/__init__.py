"""Turn the frame into tables and statistics."""
