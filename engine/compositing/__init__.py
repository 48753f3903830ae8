"""A person over another background: backgrounds, light wrap and despill, the closed card."""
