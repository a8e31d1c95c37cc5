"""Where to look: pools, prototypes, boxes of process parameters."""
