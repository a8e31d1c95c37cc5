"""Devices that describe themselves over OPC UA, laboratory devices of the LADS standard among them."""
