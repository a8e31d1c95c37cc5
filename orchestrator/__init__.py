"""Matloop's core: decides what to measure next, and records everything that happened."""
