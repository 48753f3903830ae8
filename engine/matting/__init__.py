"""From a frame to its alpha matte: the network's part, refinement, smoothing in time."""
