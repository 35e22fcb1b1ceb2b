from trainer.reporting.side_by_side import completion_pairs


def evaluation(completions, decoding="sampled"):
    samples = [{"prompt": f"p{index}", "completion": completion} for index, completion in completions.items()]
    return {"decodings": {decoding: {"samples": samples}}}


def test_pairs_are_spread_evenly():
    """The rows are spread over the prompts, and pair the completions of one prompt."""
    before = evaluation({index: f"before {index}" for index in range(9)})
    after = evaluation({index: f"after {index}" for index in reversed(range(9))})
    rows = completion_pairs(before, after, 3)
    assert rows == [(f"p{index}", f"before {index}", f"after {index}") for index in (0, 3, 6)]


def test_pairs_of_a_shared_decoding():
    """Only prompts and decodings that both evaluations have are paired; without any there are no rows."""
    assert completion_pairs(evaluation({1: "a"}), evaluation({1: "b"}, "greedy"), 3) == []
    assert completion_pairs(evaluation({1: "a", 2: "c"}), evaluation({2: "b"}), 3) == [("p2", "c", "b")]
    assert completion_pairs({}, evaluation({1: "b"}), 3) == []
