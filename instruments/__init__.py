"""Instruments: simulated, computed and real devices behind one contract."""
