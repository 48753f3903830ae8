"""Training and evaluation: the network, losses, data, the training loop, metrics."""
