"""Which candidates to measure next, and when to stop."""
