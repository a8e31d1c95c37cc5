"""Drivers in a process of their own, with a small HTTP server in front: other dependencies, or another computer."""
