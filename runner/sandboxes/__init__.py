"""Sandboxes for agents: a server that starts them on this node, with the wire form of OpenHands' clients."""
