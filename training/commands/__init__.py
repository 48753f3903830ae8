"""The commands of training: each module has ``add_arguments`` and ``main``."""
