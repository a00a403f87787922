"""Prune a pretrained vision network for your own images, by transfer from a pretrained hypernetwork."""

__version__ = "0.1.0"
