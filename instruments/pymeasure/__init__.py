"""Any PyMeasure driver as an instrument."""
