"""Run NeMo Gym's calls of a resources server. An argument is a list of rollouts."""

import asyncio
from urllib.parse import urlsplit

import antlr4  # noqa: F401  # before nemo_gym, which moves its own folder, with hydra's antlr4, behind ours
from calling import serve_calls
from nemo_gym import server_utils
from nemo_gym.config_types import BaseServerConfig
from omegaconf import OmegaConf

HEAD = BaseServerConfig(host="127.0.0.1", port=1)


async def run(url, rollouts):
    address = urlsplit(url)
    server = {"resources_servers": {"rewards": {"host": address.hostname, "port": address.port}}}
    session = server_utils.set_global_aiohttp_client(server_utils.GlobalAIOHTTPAsyncClientConfig())
    client = server_utils.ServerClient(
        head_server_config=HEAD, global_config_dict=OmegaConf.create({"rewards": server})
    )

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
