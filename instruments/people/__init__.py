"""People, and software that reads and writes files, as instruments."""
