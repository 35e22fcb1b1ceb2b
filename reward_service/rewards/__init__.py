"""The kinds of rewards, and the registry that builds them."""
