"""Modbus/TCP and RTU devices by register map."""
