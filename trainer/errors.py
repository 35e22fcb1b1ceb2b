"""What can be wrong with a run before it starts."""


class TrainerError(Exception):
    """A recipe, a file or a flag is wrong. The message says what to do."""
