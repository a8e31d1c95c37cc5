"""Drivers to begin from: copy one and change what is yours."""
