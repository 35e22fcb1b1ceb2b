"""Run OpenRLHF's rollouts of one turn. An argument is a list of pairs of a prompt and the policy's response."""

import asyncio
from types import SimpleNamespace

import numpy as np
from calling import serve_calls, skip_package_init

skip_package_init("openrlhf", "openrlhf.utils")
from openrlhf.utils.agent import SingleTurnAgentExecutor  # noqa: E402


class Characters:
    """A tokenizer whose tokens are characters."""

    def __call__(self, text, **_):
        return {"input_ids": [np.array([ord(char) for char in text])]}

    def decode(self, tokens, skip_special_tokens):
        return "".join(map(chr, tokens))


class Policy:
    """An engine that generates one response."""

    def __init__(self, response):
        self._response = response

    async def generate(self, *_, **__):
        tokens = [ord(char) for char in self._response]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens, finish_reason="stop", logprobs=None)])


async def run(url, pairs):
    executor = SingleTurnAgentExecutor(url)
    parameters = SimpleNamespace(max_tokens=100, logprobs=None)
    return await asyncio.gather(
        *(
            executor.execute(prompt, "label", parameters, 10_000, Characters(), Policy(response))
            for prompt, response in pairs
        )
    )


def call(url, pairs):
    return [
        {name: output[name] for name in ("reward", "scores", "extra_logs")} for output in asyncio.run(run(url, pairs))
    ]


serve_calls(call)
