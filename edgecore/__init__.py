"""The node daemon: devices (and later pods and functions) on a gateway, with or without the cloud."""
