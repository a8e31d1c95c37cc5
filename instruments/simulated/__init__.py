"""Simulated instruments: one file a device, behind the same door as the real ones."""
