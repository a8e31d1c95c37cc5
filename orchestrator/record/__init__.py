"""What happened: tables, the store, raw files, verification, export."""
