"""Interatomic potentials as instruments: energies, relaxations, molecular dynamics."""
