"""A stand-in for ThunderAgent's router, for tests alone, that routes nothing. The real one was not run."""
