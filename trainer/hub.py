"""Push a trained model to a model hub: its folder as one commit, at the end. `HF_ENDPOINT` names another hub."""

import json
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that it uses
from transformers import TrainingArguments

from remote_rewards.distributed import on_main_rank
from shared.model_store.adapters import ADAPTER_CONFIG
from shared.model_store.store import EMBEDDED_PREFIX, hub_id, looks_like_a_path
from trainer.display import log
from trainer.errors import TrainerError

HUB_ERRORS = (OSError, ValueError, HTTPError)
"""What huggingface_hub raises: for a wrong name or token, and for a hub that cannot be reached or refuses."""

PRIVATE = ("checkpoint-*", "training_args.bin", "config.yaml", "rewards.yaml", "metrics.jsonl", ".*")
"""Files that are not pushed: training_args.bin holds the hub's token, the others hold paths of this machine."""


def create_repository(args: TrainingArguments) -> str | None:
    """Create the repository of `--push_to_hub`, if there is none, and return its id; None without the flag.

    It is done before a training, which would end with a name or a token that the hub does not accept. The flag is
    cleared, because TRL's trainer would push each checkpoint. Raises `TrainerError`.
    """
    if not args.push_to_hub:
        return None
    args.push_to_hub = False
    return on_main_rank(lambda: _create_repository(args))


def _create_repository(args: TrainingArguments) -> str:
    name = args.hub_model_id or Path(str(args.output_dir)).name
    try:
        created = HfApi(token=args.hub_token).create_repo(name, private=args.hub_private_repo, exist_ok=True)
    except HUB_ERRORS as error:
        raise TrainerError(f"--push_to_hub: the hub does not take {name}: {_first_line(error)}") from error
    log(f"the model will be pushed to {created}")
    return str(created.repo_id)


def is_hub_id(name: str) -> bool:
    """Return whether a model is given by hub id, rather than by folder or as `embedded:<name>`."""
    return not name.startswith(EMBEDDED_PREFIX) and not looks_like_a_path(name)


def check_adapter_can_be_pushed(args: TrainingArguments, base: str) -> None:
    """Raise `TrainerError` with `--push_to_hub` if the base model of the run's adapter is on this machine alone."""
    if args.push_to_hub and not is_hub_id(base):
        raise TrainerError(
            f"--push_to_hub with --merge_lora false pushes an adapter, which others could not load without {base}: "
            f"pass --merge_lora true to push the whole model, or train from a hub id"
        )


def name_base(adapter: Path, base: str) -> None:
    """Write the hub id of an adapter's base model into its configuration: PEFT writes the folder on this machine."""
    path = adapter / ADAPTER_CONFIG
    if path.exists() and is_hub_id(base):
        repository, revision = hub_id(base)
        config = json.loads(path.read_text(encoding="utf-8"))
        named = {**config, "base_model_name_or_path": repository, "revision": revision}
        path.write_text(json.dumps(named, indent=2), encoding="utf-8")


def push(repository: str, folder: Path, args: TrainingArguments, message: str) -> None:
    """Commit all files of a folder to a repository. Raises `TrainerError`, which names the folder."""
    try:
        commit = HfApi(token=args.hub_token).upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            revision=args.hub_revision,
            ignore_patterns=[*PRIVATE],
        )
    except HUB_ERRORS as error:
        raise TrainerError(
            f"the model is saved in {folder} and could not be pushed: {_first_line(error)}; push it with "
            f"`hf upload {repository} {folder}`"
        ) from error
    log(f"pushed: {commit.commit_url}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
