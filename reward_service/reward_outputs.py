"""A reward's scores with what a model put out for them: formats of other servers carry labels and token counts."""

from pydantic import Field, SkipValidation

from reward_service.backends.base import Logits
from shared.schemas import RewardScores


class RewardOutputs(RewardScores):
    """The scores of one reward, and the model's outputs. The native format, which is `RewardScores`, has the former."""

    logits: SkipValidation[list[Logits | None]] = Field(default_factory=list)
    """A model's outputs per item, in the order of the reward's labels; empty for a reward without a model."""
    tokens: SkipValidation[list[int]] = Field(default_factory=list)
    """Number of tokens that models read of each item; empty for a reward without a model."""
