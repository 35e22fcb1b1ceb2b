"""Serve rewards from replicas on Ray Serve, one application for each revision. `replica` and `session` import Ray."""
