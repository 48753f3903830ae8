"""Arithmetic on planes that knows no file: colour conversion, pooled memory."""
