"""SCPI and VISA: devices described by YAML alone, their simulator, and a session for drivers in Python."""
