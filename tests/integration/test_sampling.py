"""`reward-trainer sample`: completions of a policy with the scores of a service, one JSON object a line."""

import json

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from remote_rewards import RewardClient
from shared.errors import InternalServerError
from tests.small_models import save_folder
from trainer.cli import main

pytestmark = pytest.mark.slow
PROMPTS, COMPLETIONS = 5, 3


@pytest.fixture(scope="module")
def sample(rules_url, tmp_path_factory):
    """Return a function that samples from a small random policy and returns the file."""
    folder = tmp_path_factory.mktemp("sample")
    save_folder(folder / "policy", LlamaForCausalLM, LlamaConfig)
    rows = [{"prompt": f"Question {number}?", "answer": str(number)} for number in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(out, *flags, code=0):
        settings = {
            "model_name_or_path": folder / "policy",
            "prompts": folder / "prompts.jsonl",
            "rewards": "banana",
            "judges": "strict_success",
            "few_shot": "",
            "frozen_layers": 0,
            "reward_url": rules_url,
            "num_generations": COMPLETIONS,
            "per_device_train_batch_size": COMPLETIONS,
            "max_completion_length": 6,
            "eval_batch": 2 * COMPLETIONS,
            "output_dir": folder / out,
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        assert main(["sample", "--config", "banana", *words, *flags]) == code
        return folder / out / "completions.jsonl"

    return run


def test_records(sample):
    """Each prompt has its completions, with scores, parts, revisions and columns; the same seed samples the same."""
    file = sample("first")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    prompts = [record["prompt"][-1]["content"] for record in records]
    assert prompts == [f"Question {number}?" for number in range(PROMPTS) for _ in range(COMPLETIONS)]
    assert len({record["completion"] for record in records}) > PROMPTS
    for record in records:
        assert record["scores"]["strict_success"] in {0.0, 1.0}
        assert record["scores"]["banana"] == pytest.approx(sum(record["parts"]["banana"].values()))
        assert record["revisions"]["banana"].startswith("rule:")
        assert record["columns"]["answer"] == record["prompt"][-1]["content"].split()[1].strip("?")
    assert sample("second").read_text() == file.read_text()


@pytest.mark.parametrize("flags", ["--top_k 1", "--top_p 1e-6", "--min_p 1.0"])
def test_decoding(sample, flags):
    """The settings of TRL's generation are followed: where they leave one token, all completions of a prompt agree."""
    records = [json.loads(line) for line in sample(flags.replace(" ", ""), *flags.split()).read_text().splitlines()]
    assert len({(record["columns"]["answer"], record["completion"]) for record in records}) == PROMPTS


@pytest.mark.parametrize(
    ("flags", "off"),
    [
        (["--use_vllm", "true"], "--use_vllm false"),
        (["--generation_kwargs", '{"num_beams": 2}'], "--generation_kwargs '{}'"),
    ],
)
def test_unsupported_generation(sample, monkeypatch, capsys, flags, off):
    """A setting of TRL's generation that is not followed is an error that says how to turn it off."""
    monkeypatch.setattr("trainer.settings_checks.is_vllm_available", lambda: True)
    assert not sample("unsupported", *flags, code=2).exists()
    assert f"is not supported by `reward-trainer sample`: leave it out, or pass {off} if" in capsys.readouterr().err


def test_kl_from(sample, capsys):
    """Sampling measures no KL, so `--kl_from` is refused."""
    assert not sample("kl_from", "--kl_from", "embedded:smollm2", code=2).exists()
    assert "--kl_from has no effect on what is sampled" in capsys.readouterr().err


def test_failing_judge(sample, monkeypatch):
    """A judge that cannot be called stops nothing: its scores are null, with the reason."""

    def score(self, *args, rewards=None, **kwargs):
        if rewards == ["content_words"]:
            raise InternalServerError("it broke", status=500, code="internal")
        return called(self, *args, rewards=rewards, **kwargs)

    called = RewardClient.score
    monkeypatch.setattr(RewardClient, "score", score)
    file = sample("judged", "--judges", "content_words", "vader")
    for record in map(json.loads, file.read_text().splitlines()):
        assert record["scores"]["content_words"] is None
        assert record["errors"] == {"content_words": {"code": "call_failed", "message": "it broke"}}
        assert {*record["scores"]} == {"banana", "content_words", "vader"}


@pytest.fixture(scope="module")
def whole(sample):
    """The lines of a file that was not interrupted."""
    return sample("whole").read_text().splitlines(keepends=True)


@pytest.mark.parametrize("lines", [0, 1, 2 * COMPLETIONS, 3 * COMPLETIONS, 5 * COMPLETIONS - 1])
def test_resumed(sample, whole, lines):
    """A run that was cut short, within a batch or a line, continues and samples what it would have sampled."""
    file = sample("whole", "--overwrite", "true") if lines == 0 else sample("whole", "--resume_from_checkpoint", "true")
    file.write_text("".join(whole[:lines]) + whole[lines][:20])
    assert sample("whole", "--resume_from_checkpoint", "true").read_text() == "".join(whole)


def test_earlier_file_is_kept(sample, whole, capsys):
    """An earlier file is neither replaced nor continued unless the flags say so."""
    sample("whole", code=2)
    assert "--resume_from_checkpoint true" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_generations", "2", "--per_device_train_batch_size", "2"], "--num_generations 3 instead of 2"),
        (["--temperature", "0.5", "--seed", "7"], "--seed 42 instead of 7, --temperature 0.8 instead of 0.5"),
        (["--system_prompt", "Be brief."], "line 1 is of another prompt"),
        (["--judges", "banana_answer"], "were scored by banana, and this run asks for banana, banana_answer: "),
    ],
)
def test_other_settings(sample, whole, capsys, flags, message):
    """A file is not continued with other settings, which are named; it stays as it is."""
    file = sample("whole", "--resume_from_checkpoint", "true")
    sample("whole", "--resume_from_checkpoint", "true", *flags, code=2)
    assert message in capsys.readouterr().err
    assert file.read_text() == "".join(whole)
