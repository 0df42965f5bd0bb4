"""Runs programs that a model wrote against their tests, over HTTP, without trusting them: see server.py."""
