"""Clusters as data, and what speaks to Slurm."""
