"""Run tei-client. Each call is a list of texts, one request each, all at once."""

import asyncio

from calling import serve_calls
from tei_client import HttpClient


async def run(url, texts):
    client = HttpClient(url)
    results = await asyncio.gather(*(client.async_classify([text]) for text in texts))
    return [result[0].scores[0].score for result in results]


serve_calls(lambda url, texts: asyncio.run(run(url, texts)))
