"""Carries out procedures: claim, intent, guard, raw bytes first, record."""
