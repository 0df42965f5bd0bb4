"""The spine: frozen nouns, the error vocabulary, and the doors to processes, files and settings."""
