"""Errors of the trainer itself. Those of the rewards are in `shared.errors`."""


class TrainerError(Exception):
    """A recipe, a file or a flag is wrong. The message says what, why, and what to do."""


class HackDetected(Exception):
    """The hack monitor has stopped the run. The message says why, and how to continue."""
