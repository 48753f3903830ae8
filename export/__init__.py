"""Export: from trained weights to what the engine runs."""
