"""Learned maps from candidates to a joint posterior."""
