"""Files of other libraries."""
