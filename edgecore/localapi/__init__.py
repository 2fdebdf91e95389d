"""The node-local Kubernetes API: the edge's own store behind TLS and RBAC, and its offline writes. Rules: README.md."""
