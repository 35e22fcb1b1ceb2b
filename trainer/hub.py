"""Push a trained model to a model hub: its folder as one commit, at the end. `HF_ENDPOINT` names another hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that it uses
from transformers import TrainingArguments

from remote_rewards.distributed import on_main_rank
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
