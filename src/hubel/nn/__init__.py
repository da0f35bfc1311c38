"""Networks: blocks, families, names; weights read, saved and frozen; hooks that look into a running model."""
