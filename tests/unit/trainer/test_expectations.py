from trainer.expectations import check_bounds, check_gains


def evaluation(name, *values):
    return {"decodings": {"sampled": {"samples": [{"scores": {name: value}} for value in values]}}}


def test_bounds():
    """A bound is compared with the mean over the completions that have a score."""
    after = evaluation("vader", 0.5, 0.9, None)
    lines = check_bounds({"sampled.vader": 0.7, "sampled.x": 1}, after)
    assert [line.split(":")[0] for line in lines] == ["reached", "not evaluated"]
    assert check_bounds({"sampled.vader": 0.71}, after)[0].startswith("MISSED")


def test_gains():
    """A gain is compared with the difference of the means."""
    lines = check_gains({"sampled.valence": 1.5}, evaluation("valence", 0.5), evaluation("valence", 2.1))
    assert lines == ["reached: gain in sampled.valence 1.600 (expected at least 1.5)"]
