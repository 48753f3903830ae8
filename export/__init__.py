"""Export of trained networks to the formats that backends run."""
