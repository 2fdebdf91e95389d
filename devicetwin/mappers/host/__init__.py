"""Protocol ``host``: the gateway itself as a device, on real values."""
