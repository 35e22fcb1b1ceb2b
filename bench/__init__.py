"""Benchmarks: everything that is compared is measured in one run, in turns. `make bench` runs them."""
