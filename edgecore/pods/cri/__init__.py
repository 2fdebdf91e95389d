"""The container runtime behind any CRI v1 socket: containerd, K3s's containerd, CRI-O. The only place of grpclib."""

from edgecore.pods.cri.runtime import CriRuntime

__all__ = ["CriRuntime"]
