"""The door to Kubernetes: any API server, by our own HTTPS client and list-watch."""
