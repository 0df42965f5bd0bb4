"""The command line, and what composes the other parts."""
