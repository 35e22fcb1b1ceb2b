"""Weights between the policy before training and the trained one.

The noise of the gradients moves a policy without raising its reward. On the line between both policies, the KL
divergence from the first falls faster than the reward (WiSE-FT: Wortsman et al. 2022; WARP: Ramé et al. 2024).
"""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from remote_rewards.distributed import on_main_rank
from trainer.errors import TrainerError
from trainer.policy import row_major_weights, without_adapter
from trainer.quantization import is_quantized


def check_share(flag: str, share: float) -> None:
    """Raise `TrainerError` for a share outside of (0, 1]."""
    if not 0 < share <= 1:
        raise TrainerError(f"{flag} {share:g}: choose a number above 0, up to 1")


def check_whole(model: PreTrainedModel) -> None:
    """Raise `TrainerError` for a model whose weights are quantized."""
    if is_quantized(without_adapter(model)):
        raise TrainerError("quantized weights cannot be interpolated: pass --interpolation 1, or leave out --shares")


@torch.no_grad()
def interpolate(policy: PreTrainedModel, base: PreTrainedModel, share: float) -> None:
    """Set each parameter of the policy to base + `share` × (policy - base), computed in float32.

    Raises `TrainerError` for quantized weights.
    """
    check_whole(policy)
    check_whole(base)
    for name, weight in policy.named_parameters():  # a tied one comes once
        start = base.get_parameter(name).to(weight.device, torch.float32)
        weight.copy_(start.lerp(weight.float(), share))


def save_interpolated(policy: PreTrainedModel, base: PreTrainedModel, share: float, folder: Path) -> None:
    """Interpolate the policy on every rank, and replace the weights in its folder."""
    interpolate(policy, base, share)
    with row_major_weights(policy):
        on_main_rank(lambda: policy.save_pretrained(folder))
