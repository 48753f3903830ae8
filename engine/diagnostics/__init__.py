"""Checks and measurements of this machine: ``doctor``, ``bench``, ``tune``, ``demo``."""
