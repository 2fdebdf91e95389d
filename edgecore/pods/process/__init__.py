"""Pods as plain processes, for gateways without a container runtime: bubblewrap, cgroups, one small supervisor a pod."""
