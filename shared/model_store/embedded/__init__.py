"""The embedded models, each built from pinned wheels by the `build` function of its module."""
