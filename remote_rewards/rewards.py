"""Every attribute of this module is the reward of that name, of the service at `REWARD_URL`.

`remote_rewards.rewards.<name>` works for every reward, the shorter `remote_rewards.<name>` for all but those whose name
is also that of a module of the package, such as `client`.
"""

from remote_rewards.trl import RemoteReward, reward_from_environment


def __getattr__(name: str) -> RemoteReward:
    """Return the reward of that name."""
    return reward_from_environment(name)
