"""Pods on this node: what should run, what runs, and the steps between."""
