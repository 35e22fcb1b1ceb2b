"""Our own settings of a run, beside those of TRL."""

from dataclasses import dataclass, field
from typing import Any

from remote_rewards.trl import urls_from_environment
from trainer.algorithms import CONFIG_CLASSES, DEFAULT
from trainer.judges import LOCAL_JUDGES


@dataclass
class RunArguments:
    """The rewards, the prompts and the evaluation of a run."""

    recipe: str = field(default="run", metadata={"help": "Name of the run."})
    question: str = field(
        default="", metadata={"help": "The question that the run answers, in one sentence: the report's title."}
    )
    algorithm: str = field(
        default=DEFAULT,
        metadata={"help": f"How the policy is trained: {', '.join(CONFIG_CLASSES)}. Its settings are those of TRL."},
    )
    reward_url: list[str] = field(
        default_factory=urls_from_environment,
        metadata={"help": "URL of the reward service, or URLs of its replicas. $REWARD_URL sets the default."},
    )
    rewards: list[str] = field(
        default_factory=lambda: ["sentiment"],
        metadata={"help": "Names of the rewards to train on. Set their weights with --reward_weights."},
    )
    failure_budget: float = field(
        default=0.01,
        metadata={"help": "Fraction of recent completions that may fail to be scored before the run stops."},
    )
    reward_timeout_s: float = field(
        default=300.0,
        metadata={"help": "Timeout of one reward call in seconds, retries included, after which the run stops."},
    )
    hedge_after_s: float | None = field(
        default=None,
        metadata={
            "help": "Send a slow request to a second replica, too, after this many seconds (0: never); "
            "by default after a time taken from the latencies so far."
        },
    )
    wait_for_rewards_s: float = field(
        default=10.0,
        metadata={
            "help": "How long to wait for the service before giving up, in seconds; at least 10 minutes if it responds "
            "that it is loading its models."
        },
    )
    allow_revision_change: bool = field(
        default=False,
        metadata={"help": "Continue the run when a reward changes its revision, and log the change."},
    )
    completions: str | None = field(
        default=None,
        metadata={
            "help": "With dpo and sft: what to learn from. The file of `reward-trainer sample`, from which the first "
            "of --rewards chooses; or a JSONL file with `prompt`, `chosen` and `rejected` in each line for dpo, "
            "`prompt` and `completion` for sft."
        },
    )
    margin: float = field(
        default=0.0,
        metadata={"help": "With dpo and sampled completions: best and worst must be further apart in score than this."},
    )
    min_score: float | None = field(
        default=None,
        metadata={"help": "With sft and sampled completions: the lowest score of a prompt's best completion."},
    )
    max_minutes: float | None = field(
        default=None, metadata={"help": "Stop training, or sampling, after this number of minutes."}
    )
    prompts: str = field(
        default="recipe:optimist_train.jsonl",
        metadata={"help": "Training prompts: a JSONL file, or recipe:<file> for one of the package."},
    )
    heldout_prompts: str = field(
        default="recipe:optimist_heldout.jsonl",
        metadata={"help": "Prompts to evaluate on. None of them may be a training prompt."},
    )
    system_prompt: str | None = field(default=None, metadata={"help": "System message put before every prompt."})
    few_shot: str | None = field(
        default=None,
        metadata={"help": "JSONL file of examples, a prompt and a completion a line: turns before every prompt."},
    )
    frozen_layers: int = field(
        default=0,
        metadata={"help": "Number of the policy's lowest layers to freeze, together with its embeddings."},
    )
    interpolation: float = field(
        default=1.0,
        metadata={
            "help": "Share of what training changed in the weights that the saved policy keeps: below 1, it stays "
            "nearer to the policy before training."
        },
    )
    merge_lora: bool = field(
        default=True,
        metadata={"help": "With --use_peft: save one whole model, not an adapter that needs its base model."},
    )
    diversity_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the reward `diversity`, with rloo and grpo: what a completion has in common with those "
            "of other prompts costs."
        },
    )
    judges: list[str] = field(
        default_factory=list,
        metadata={
            "help": "What scores the completions of each step and evaluation without being trained on: rewards of the "
            f"service, or {', '.join(LOCAL_JUDGES)}."
        },
    )
    on_hack: str = field(
        default="warn",
        metadata={
            "help": "When the reward is being gamed: warn, stop the run, or keep_best (the run ends with its best "
            "checkpoint by reward and judges)."
        },
    )
    eval_limit: int | None = field(
        default=None, metadata={"help": "Evaluate on this number of held-out prompts instead of all."}
    )
    eval_max_new_tokens: int = field(
        default=50, metadata={"help": "Maximum length of the evaluated completions, in tokens."}
    )
    eval_temperature: float = field(default=0.7, metadata={"help": "Temperature of the decoding `sampled`."})
    eval_decodings: list[str] = field(
        default_factory=lambda: ["greedy", "sampled"],
        metadata={"help": "How the evaluated completions are decoded: greedy, sampled."},
    )
    eval_batch: int = field(default=100, metadata={"help": "Batch size of the evaluation, in completions."})
    eval_kl: bool = field(
        default=True,
        metadata={
            "help": "Measure the KL divergence of the trained policy from the one before, which is loaded again for it."
        },
    )
    kl_from: str | None = field(
        default=None,
        metadata={
            "help": "Measure it from this policy instead: a folder, a hub id or embedded:<name>. Without it "
            "`evaluate` measures none."
        },
    )
    expect: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Lower bounds that means after training should reach, such as '{sampled.vader: 0.7}'."},
    )
    expect_gain: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Lower bounds for the differences between after and before, in the same form."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an earlier run in --output_dir."})

    @property
    def before_prompts(self) -> dict[str, str | None]:
        """What comes before every prompt: settings of `read_prompts`."""
        return {"system_prompt": self.system_prompt, "few_shot": self.few_shot}

    @property
    def local_judges(self) -> list[str]:
        """The judges that need no service."""
        return [name for name in dict.fromkeys(self.judges) if name in LOCAL_JUDGES]

    @property
    def remote_judges(self) -> list[str]:
        """The judges that are rewards of the service, without those that the run trains on."""
        return [name for name in dict.fromkeys(self.judges) if name not in {*LOCAL_JUDGES, *self.rewards}]
