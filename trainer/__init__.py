"""Train language models with TRL's RLOO against rewards served over HTTP."""

from trainer.remote import RemoteReward, remote_reward

__all__ = ["RemoteReward", "remote_reward"]
