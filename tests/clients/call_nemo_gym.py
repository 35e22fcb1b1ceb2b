"""Run NeMo Gym's calls of a resources server, with the page's configuration. An argument is a list of rollouts."""

import asyncio
import re
from pathlib import Path
from urllib.parse import urlsplit

import antlr4  # noqa: F401  # before nemo_gym, which moves its own folder, with hydra's antlr4, behind ours
from calling import serve_calls
from nemo_gym import server_utils
from nemo_gym.config_types import BaseServerConfig, maybe_get_server_instance_config
from nemo_gym.global_config import GlobalConfigDictParser
from omegaconf import OmegaConf

HEAD = BaseServerConfig(host="127.0.0.1", port=1)
PAGE = Path(__file__).parents[2] / "docs" / "trainers.md"
(EXAMPLE,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
AGENT = """
agent:
  responses_api_agents:
    simple_agent:
      entrypoint: app.py
      resources_server: {type: resources_servers, name: rewards}
"""


def configuration(url):
    """Return the page's configuration for the service at `url`, with an agent, as Gym validates it."""
    config, address = OmegaConf.create(EXAMPLE + AGENT), urlsplit(url)
    config.rewards.resources_servers.remote_rewards.update(host=address.hostname, port=address.port)
    servers = [maybe_get_server_instance_config(name, server)[0] for name, server in config.items()]
    GlobalConfigDictParser().validate_and_populate_defaults(servers, "127.0.0.1", 20_000, 20_100, probe_ports=False)
    return config


async def run(url, rollouts):
    session = server_utils.set_global_aiohttp_client(server_utils.GlobalAIOHTTPAsyncClientConfig())
    client = server_utils.ServerClient(head_server_config=HEAD, global_config_dict=configuration(url))

    async def reward(rollout):
        for path in ("/seed_session", "/verify"):
            response = await client.post("rewards", path, json=rollout)
            await server_utils.raise_for_status(response)
        return (await server_utils.get_response_json(response))["reward"]

    try:
        return await asyncio.gather(*map(reward, rollouts))
    finally:
        await session.close()
        server_utils._GLOBAL_AIOHTTP_CLIENT = None


serve_calls(lambda url, rollouts: asyncio.run(run(url, rollouts)))
