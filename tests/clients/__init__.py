"""The clients of trainers from their published packages, against the real service."""
