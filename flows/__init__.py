"""Schedules campaigns: the command line, the loop under Prefect, what the UI shows."""
