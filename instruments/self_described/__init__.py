"""Devices that say what they can do: scans, what they offer, and what their drivers share."""
