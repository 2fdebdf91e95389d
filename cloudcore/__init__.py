"""The cloud daemon: Kubernetes objects on one side, edges on the other."""
