"""HOW images are built and checked: one small file per engine."""
