"""Soak trials: failures, floods and abuse of a real service, with bounds on what may be lost.

`make test` runs the short form of each; `make soak` runs the full form and updates the table in docs/reliability.md.
"""
