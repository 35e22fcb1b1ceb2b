"""Trials on two machines, which are network namespaces: `make cluster-test`."""

NAMES = ("killed_machine", "cut_link", "lost_head", "drained_machine", "killed_trainer_machine")
