"""The network, its gradients and its training against torch."""
