"""A small Kubernetes API on SQLite: the cloud's embedded default and every edge's state store."""
