"""Crystal graphs, networks on them, training, pretrained features."""
