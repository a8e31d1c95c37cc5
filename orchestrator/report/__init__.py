"""Plots and the campaign page."""
