"""MADSci nodes over their REST interface."""
