"""The deployable folder: manifest, verification, one-file archive."""
