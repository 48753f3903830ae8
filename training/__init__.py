"""Training: the network, its losses, its data, the loop that makes the weights."""
