"""WHERE images are: keys, a content-addressed store, and registries."""
