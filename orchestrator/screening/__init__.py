"""Screening: a fit asked about a pool of any size, resumable, in bounded memory."""
