"""How far a sweep is and what came of it, for people: progress, status, the table and the report."""
