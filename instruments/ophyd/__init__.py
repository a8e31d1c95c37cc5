"""EPICS process variables and ophyd-async devices."""
