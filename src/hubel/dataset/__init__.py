"""Images from a folder, a table, tar files or a set: found, audited, split, decoded once, augmented, in batches."""
