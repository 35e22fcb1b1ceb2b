import pytest

from reward_service.backends.sentence_config import SentenceConfig
from reward_service.errors import RewardServiceError
from reward_service.rewards.comparing import Compared, prefixes_for, read_compared
from reward_service.scorer import to_items
from reward_service.specs import Prefixes, SimilaritySpec
from shared.schemas import ScoreRequest

NONE = Prefixes()
TURNS = [
    {"role": "system", "content": "Be terse."},
    {"role": "user", "content": "First?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "text", "text": "second?"}]},
]


def read(completion, prompt=None, *, prefixes=NONE, lower_case=False, columns=None, **spec):
    """Return the two texts of one item, or the code of its error."""
    request = ScoreRequest(
        completions=[completion], prompts=None if prompt is None else [prompt], columns=columns or {}
    )
    compared = read_compared(SimilaritySpec(model="m", **spec), to_items(request), prefixes, lower_case=lower_case)[0]
    return compared.code if isinstance(compared, RewardServiceError) else compared.texts


def test_strings():
    """A completion is compared with its prompt, both as they are."""
    assert read(" A stapler. ", "What is it? ") == (" A stapler. ", "What is it? ")


def test_last_user_turn():
    """Of a conversation the last user turn is compared."""
    assert read([{"role": "assistant", "content": "No."}], TURNS) == ("No.", "And second?")


@pytest.mark.parametrize(
    "prompt",
    [[], TURNS[:1], [{"role": "user", "content": None}], "", " \n", [*TURNS[:1], {"role": "user", "content": " "}]],
)
def test_no_user_turn(prompt):
    """A prompt in which the user says nothing is not compared."""
    assert read("No.", prompt) == "nothing_to_read"


@pytest.mark.parametrize("completion", ["", " ", [], [{"role": "assistant", "content": None}], TURNS[1:2]])
def test_no_completion(completion):
    """A completion in which the assistant says nothing is not compared."""
    assert read(completion, "What?") == "nothing_to_read"


def test_column():
    """A column of texts takes the prompt's place."""
    assert read("Four.", columns={"answer": ["4"]}, to="answer") == ("Four.", "4")


@pytest.mark.parametrize(("value", "code"), [(None, "not_applicable"), (4, "nothing_to_read"), ("", "nothing_to_read")])
def test_column_without_text(value, code):
    """A null does not apply; what is no text, or an empty one, cannot be read."""
    assert read("Four.", columns={"answer": [value]}, to="answer") == code


def test_what_is_read():
    """`after`, `turns` and `last_chars` apply to the completion alone."""
    turns = [{"role": "assistant", "content": text} for text in ("One.", "<t>Two.</t>Three.")]
    assert read(turns, "A </t> B", after="</t>", turns="last", last_chars=3) == ("ee.", "A </t> B")


def test_cut():
    """A completion of which `last_chars` drops a part is marked."""
    items = to_items(ScoreRequest(completions=["long", "ok"], prompts=["?", "?"]))
    read = read_compared(SimilaritySpec(model="m", last_chars=2), items, NONE, lower_case=False)
    assert [item.cut for item in read if isinstance(item, Compared)] == [True, False]


def test_prefixes():
    """Each text has its prefix, and both are lower-cased with it where the model wants that."""
    prefixes = Prefixes(completion="Doc: ", to="Query: ")
    assert read("A", "B", prefixes=prefixes) == ("Doc: A", "Query: B")
    assert read("A", "B", prefixes=prefixes, lower_case=True) == ("doc: a", "query: b")


def test_default_prefixes():
    """A prompt is a query and its completion a document; a column and its completion have the folder's default."""
    sentence = SentenceConfig("mean", query_prefix="q", document_prefix="d", default_prefix="x")
    to_prompt, to_column = SimilaritySpec(model="m"), SimilaritySpec(model="m", to="answer")
    assert prefixes_for(to_prompt, sentence) == Prefixes(completion="d", to="q")
    assert prefixes_for(to_column, sentence) == Prefixes(completion="x", to="x")
    own = Prefixes(completion="passage: ")
    assert prefixes_for(to_prompt.model_copy(update={"prefixes": own}), sentence) == own
