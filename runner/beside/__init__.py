"""Containers beside the job's own, started from inside it by the node's podman."""
