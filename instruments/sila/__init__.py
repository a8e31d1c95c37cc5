"""Devices that describe themselves over SiLA 2."""
