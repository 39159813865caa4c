"""The gateway: the only package that knows the others, and that nobody imports."""

__version__ = "0.1.0"
