import json
import re
from types import SimpleNamespace

import huggingface_hub.constants
import pytest

from tests.stand_in_hub import TOKEN
from trainer.errors import TrainerError
from trainer.hub import check_adapter_can_be_pushed, create_repository, name_base, push


def settings(**changes):
    given = {"push_to_hub": True, "hub_model_id": None, "hub_token": TOKEN, "hub_private_repo": None}
    return SimpleNamespace(**{**given, "hub_revision": None, "output_dir": "runs/optimist", **changes})


@pytest.fixture
def folder(tmp_path):
    """A model's folder, with files that are not for others."""
    files = {"model.safetensors": b"weights", "README.md": b"---\ntags: [trl]\n---\n", "config.json": b"{}"}
    private = {"training_args.bin": b"token", "config.yaml": b"{}", "checkpoint-1/model.safetensors": b"weights"}
    (tmp_path / "checkpoint-1").mkdir()
    for name, content in {**files, **private}.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path, files


def test_push(hub, folder):
    """All files of a model are one commit in the repository of its run's name, without those that hold secrets."""
    path, files = folder
    args = settings()
    repository = create_repository(args)
    assert (repository, args.push_to_hub) == ("somebody/optimist", False)
    push(repository, path, args, "24 steps")
    assert (hub.files, hub.commits) == ({"somebody/optimist": files}, ["24 steps"])
    assert create_repository(settings(hub_model_id="somebody/optimist")) == "somebody/optimist"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hub_token": "hf_wrong"}, "the hub does not take optimist: "),
        ({"hub_model_id": "other/model"}, "the hub does not take other/model: "),
        ({"hub_model_id": "a b"}, "the hub does not take a b: "),
    ],
)
def test_refused(hub, changes, message):
    """A name or a token that the hub does not accept is an error in one line before the training."""
    with pytest.raises(TrainerError, match=message) as caught:
        create_repository(settings(**changes))
    assert "\n" not in str(caught.value)


def test_push_fails(hub, folder):
    """A model that cannot be pushed stays where it is, and the error says how to push it."""
    path, _ = folder
    (path / "README.md").write_text("---\nbase_model: embedded:smollm2\n---\n")
    message = f"the model is saved in {path} and could not be pushed: .*; push it with `hf upload somebody/x {path}`"
    with pytest.raises(TrainerError, match=message):
        push("somebody/x", path, settings(), "1 step")


def test_not_reachable(monkeypatch):
    """Without a hub, the error says so; without the flag, none is asked."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert create_repository(settings(push_to_hub=False)) is None
    with pytest.raises(TrainerError, match=re.escape("--push_to_hub: the hub does not take optimist: ")):
        create_repository(settings())


@pytest.mark.parametrize(
    ("base", "named"),
    [("org/m", ("org/m", None)), (f"org/m@{'a' * 40}", ("org/m", "a" * 40)), ("embedded:smollm2", ("/cache/m", None))],
)
def test_base_of_an_adapter(tmp_path, base, named):
    """A saved adapter names its base model by hub id, if it was trained from one, and not this machine's folder."""
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"base_model_name_or_path": "/cache/m", "revision": None, "r": 4}))
    name_base(tmp_path, base)
    config = json.loads(path.read_text())
    assert (config["base_model_name_or_path"], config["revision"], config["r"]) == (*named, 4)


@pytest.mark.parametrize("base", ["embedded:smollm2", "runs/stage1/policy", "."])
def test_adapter_without_a_base(base):
    """An adapter whose base model is on this machine alone is not pushed, and the error says what to do."""
    with pytest.raises(TrainerError, match=f"others could not load without {base}: pass --merge_lora true"):
        check_adapter_can_be_pushed(settings(), base)
    check_adapter_can_be_pushed(settings(), "org/m")
    check_adapter_can_be_pushed(settings(push_to_hub=False), base)
