"""Group run folders: runs that differ in their seed alone are one group, and its spread is that of the seeds."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError
from trainer.reporting.comparison import Evaluation
from trainer.run_folder import Run, is_run_folder, read_run

NOT_COMPARED = {
    *("seed", "data_seed", "output_dir", "run_name", "overwrite", "resume_from_checkpoint", "reward_url", "question"),
    *("expect", "expect_gain", "judges", "on_hack", "wait_for_rewards_s", "reward_timeout_s", "hedge_after_s"),
    *("save_strategy", "save_steps", "save_total_limit", "eval_batch", "eval_kl", "model"),
    *("push_to_hub", "hub_model_id", "hub_revision", "hub_token", "hub_private_repo", "hub_always_push"),
    *("hub_strategy", "report_to", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
    "disable_tqdm",
}
"""Settings in which runs of one group may differ: none of them changes what is learned or how it is evaluated."""
MODEL_SETTINGS = ("dtype", "attn_implementation")
"""Settings of TRL's ModelConfig in which runs of one group do not differ; `policy` and `lora` hold the others."""
MAX_NAMED = 3
"""Most differing settings that a label names."""


@dataclass(frozen=True)
class RunGroup:
    """Runs with the same settings and rewards, one a seed."""

    label: str
    paths: Sequence[Path]
    runs: Sequence[Run]

    @property
    def heldout(self) -> str:
        """The held-out prompts that the runs were evaluated on."""
        return str(self.runs[0].config.get("heldout_prompts"))


def final_evaluation(run: Run) -> Evaluation:
    """Return the evaluation after training, or the only one of a policy that was not trained."""
    return run.after or ({} if run.metrics else run.before)


def run_folders_in(folder: Path) -> list[Path]:
    """Return the run folders in a folder, those in its subfolders included."""
    return sorted(path.parent for path in folder.rglob("config.yaml") if is_run_folder(path.parent))


def group_runs(paths: Iterable[Path]) -> list[RunGroup]:
    """Read run folders and group them, in their order. Raises `TrainerError` for a folder that is none."""
    members: dict[str, list[tuple[Path, Run]]] = {}
    for path in dict.fromkeys(paths):
        if not is_run_folder(path):
            raise TrainerError(f"{path} is not a run folder; pass the --output_dir of runs")
        run = read_run(path)
        members.setdefault(json.dumps(_settings(run), sort_keys=True, default=str), []).append((path, run))
    labels = _labels([runs[0][1] for runs in members.values()])
    return [
        RunGroup(label, [path for path, _ in runs], [run for _, run in runs])
        for label, runs in zip(labels, members.values(), strict=True)
    ]


def _settings(run: Run) -> dict[str, Any]:
    rewards = [[row.get(key) for key in ("name", "revision", "weight")] for row in run.rewards.get("rewards", [])]
    model = run.config.get("model") or {}
    return {
        **{key: value for key, value in run.config.items() if key not in NOT_COMPARED},
        **{key: model.get(key) for key in MODEL_SETTINGS},
        "completions": without_seed(run.config.get("completions"), run.config.get("seed")),
        "revisions": rewards,
    }


def without_seed(path: object, seed: object) -> str | None:
    """Return a path with its run's seed replaced, so that those of other seeds are equal: each samples its own file.

    The seed is a number between separators, or after the word seed.
    """
    number = rf"(?:(?<=seed)|(?<![^\W_])){re.escape(str(seed))}(?![^\W_])"
    return None if path is None else re.sub(number, "<seed>", str(path))


def _labels(runs: Sequence[Run]) -> list[str]:
    """Return a label for each group: its recipe, and in what it differs from others of the recipe.

    From a run of another algorithm it differs in that alone: every algorithm has settings of its own.
    """
    settings = [_settings(run) for run in runs]
    labels = []
    for own in settings:
        others = [other for other in settings if other.get("recipe") == own.get("recipe")]
        alike = [other for other in others if other.get("algorithm") == own.get("algorithm")]
        differing = ["algorithm"] if len(alike) < len(others) else []
        differing += [key for key in own if any(other.get(key) != own[key] for other in alike)]
        named = ", ".join(f"{key} {_short(own.get(key))}" for key in differing[:MAX_NAMED])
        labels.append(f"{own.get('recipe') or 'run'}{f' ({named})' if named else ''}")
    return [f"{label} #{index}" if labels.count(label) > 1 else label for index, label in enumerate(labels, 1)]


def _short(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(_short, value))
    return json.dumps(value, default=str) if isinstance(value, Mapping) else str(value)
