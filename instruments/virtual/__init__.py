"""A virtual lab for practice: devices with documented physics, each behind a real protocol server."""
