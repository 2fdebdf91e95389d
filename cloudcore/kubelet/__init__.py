"""The kubelet API of every edge on one port: what an API server calls for logs, exec, port-forward and figures."""
