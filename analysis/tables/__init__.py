"""The frame to tables and statistics."""
