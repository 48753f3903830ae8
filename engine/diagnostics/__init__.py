"""What this machine can do: ``doctor``, ``bench``, ``demo``."""
