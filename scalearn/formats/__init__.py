"""Other libraries' files on disk."""
