"""The checks of a proof, one file each: `NAME`, and `check(tree, expected)`, which is pure."""
