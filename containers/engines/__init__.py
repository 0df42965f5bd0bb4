"""One file an engine; each has a class named ENGINE (containers/engine.py says what it must do)."""
