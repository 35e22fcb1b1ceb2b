"""Run tei-client. Each call is a reward, or null, and texts, one request each, all at once."""

import asyncio

from calling import serve_calls
from tei_client import HttpClient


async def run(url, reward, texts):
    client = HttpClient(url, params={"reward": reward} if reward else None)
    results = await asyncio.gather(*(client.async_classify([text]) for text in texts))
    return [result[0].scores[0].score for result in results]


serve_calls(lambda url, arguments: asyncio.run(run(url, *arguments)))
