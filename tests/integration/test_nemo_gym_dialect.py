"""NeMo Gym's format."""

import httpx

from tests.conftest import Plain, native_scores, running_service


class Recording(Plain):
    """Scores 1.0, and keeps what it gets."""

    def __init__(self):
        self.calls = []

    async def score(self, items):
        self.calls.append(items)
        return await super().score(items)


def rollout(*texts, **columns):
    parts = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    message = {"type": "message", "role": "assistant", "id": "m", "content": parts}
    reasoning = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "fruit"}]}
    return {
        "responses_create_params": {"input": [{"role": "user", "content": "Say it!"}], "temperature": 1.0},
        "response": {"id": "x", "output": [reasoning, message], "tools": [], "usage": None},
        **columns,
    }


def test_nemo_gym_reward(rules_url):
    """A rollout is returned as it was, with the native score of the assistant's messages as its reward."""
    body = rollout("Sure: ", "banana", expected="banana", reward="none", big=2**80)
    response = httpx.post(f"{rules_url}/verify", json=body)
    (score,) = native_scores(rules_url, "banana", ["Sure: banana"])
    assert response.json() == {**body, "reward": score}


def test_nemo_gym_columns():
    """A reward gets prompt and completion as messages, and the row's other fields as columns."""
    reward = Recording()
    with running_service(rewards={"recording": reward}) as url:
        httpx.post(f"{url}/verify", json=rollout("banana", expected={"fruit": 1}))
    items = reward.calls[-1]
    assert (items.completions, items.prompts, items.columns) == (["banana"], ["Say it!"], {"expected": [{"fruit": 1}]})
    (answer,), (question,) = items.chats[0], items.prompt_chats[0]
    assert (answer.role, answer.content, question.role, question.content) == ("assistant", "banana", "user", "Say it!")


def test_nemo_gym_picture():
    """A picture reaches the reward, which may refuse it, and is never left out."""
    reward, body = Recording(), rollout("banana")
    parts = [{"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": "data:"}]
    body["responses_create_params"]["input"] = [{"role": "user", "content": parts}]
    with running_service(rewards={"recording": reward}) as url:
        httpx.post(f"{url}/verify", json=body)
    ((question,),) = reward.calls[-1].prompt_chats
    assert question.model_dump(exclude_unset=True)["content"] == parts


def test_nemo_gym_numbers(rules_url):
    """A number that JSON does not have is returned as null."""
    content = httpx.post(
        f"{rules_url}/verify",
        content=b'{"responses_create_params": {"input": "a", "top_p": NaN}, "response": {"output": []}}',
        headers={"Content-Type": "application/json"},
    ).text
    assert '"top_p":null' in content


def test_nemo_gym_session(rules_url):
    """A session is empty."""
    response = httpx.post(f"{rules_url}/seed_session", json={"responses_create_params": {"input": "a"}})
    assert (response.status_code, response.json()) == (200, {})


def test_nemo_gym_error(rules_url):
    """An error has no reward: its reason is in `detail`."""
    response = httpx.post(f"{rules_url}/verify", json={"response": {"output": []}})
    assert (response.status_code, response.json()) == (422, {"detail": "responses_create_params: Field required"})
