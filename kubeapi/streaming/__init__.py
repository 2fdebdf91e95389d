"""Byte streams behind an HTTP upgrade: SPDY/3.1 and WebSocket framing, and what Kubernetes carries in them."""
