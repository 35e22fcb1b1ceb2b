"""The embedded models: read from pinned packages, prepared once into the cache."""
