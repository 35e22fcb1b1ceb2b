"""Batching: the fair queue, admission control, the worker and the logits cache of each model."""
