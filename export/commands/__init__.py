"""The commands of export: each module has ``add_arguments`` and ``main``."""
