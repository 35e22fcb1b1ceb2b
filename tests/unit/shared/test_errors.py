import pytest

from shared.errors import RevisionChanged, check_revision, did_you_mean


def test_check_revision_names_both():
    """Another revision raises `RevisionChanged` with both revisions; the same one does not."""
    check_revision("sentiment", "sha256:1", "sha256:1")
    with pytest.raises(RevisionChanged, match=r"'sentiment' changed .* began with sha256:1 and is now sha256:2"):
        check_revision("sentiment", "sha256:2", "sha256:1")


@pytest.mark.parametrize(("name", "hint"), [("bananna", "; did you mean 'banana'?"), ("quince", ""), ("", "")])
def test_did_you_mean_the_closest_name(name, hint):
    """The hint names the closest known name, if one is close."""
    assert did_you_mean(name, {"banana", "sentiment"}) == hint
