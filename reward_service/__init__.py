"""Rewards behind a batched HTTP scoring API."""
