"""Run LLaMA-Factory's call of a reward server. An argument is a list of texts."""

from calling import serve_calls, skip_package_init

skip_package_init("llamafactory", "llamafactory.train", "llamafactory.train.ppo", "llamafactory.extras")
from llamafactory.train.ppo.ppo_utils import get_rewards_from_server  # noqa: E402

serve_calls(lambda url, texts: get_rewards_from_server(url, texts).tolist())
