"""One runtime fix a file; see definitions of the contract in runner/fixing.py."""
