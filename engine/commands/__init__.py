"""The commands of the runtime: each module has ``add_arguments`` and ``main``."""
