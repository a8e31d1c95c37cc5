"""Programs as instruments: a folder an order, found again after a crash; ASE calculators among them."""
