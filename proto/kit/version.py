"""The version of this distribution; a test compares it with pyproject.toml (importlib.metadata costs 3 MB)."""

VERSION = "0.1.0"
