"""A torch model as a plain function, for engines that take its graph."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from reward_service.backends.base import padded
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.pytorch import forward_of
from shared.models.quiet import quiet


class Traced(nn.Module):
    """A model as a function from ids and mask, (texts, tokens), to logits, (texts, labels)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Give the logits."""
        return forward_of(self.model)(ids, mask)


@contextmanager
def tracing() -> Iterator[None]:
    """Keep the tracer quiet: it warns of its age and of Python values, none of which depends on the texts here."""
    with quiet(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def example(folder: ModelFolder) -> tuple[torch.Tensor, torch.Tensor]:
    """Give two texts of unlike length, so that nothing of their shape is taken for granted."""
    tokens = [text.tokens for text in folder.encode(["A short one.", "Another that is a little longer than it."])]
    ids, mask = map(torch.from_numpy, padded(tokens, folder.pad_id))
    return ids, mask
