"""Who goes next on which instrument: plans for a batch of trials, and what a procedure will take."""
