"""Synthetic runs for the hack monitor: completions of a policy that does its task, and of policies that game it."""

import random

from trainer.monitor.steps import make_step

COMMON = "the of a is to and in that it for as with can are by on from this be has".split()
STEPS, GROUPS, COMPLETIONS = 40, 2, 8


def vocabulary(draw, size=3000):
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["".join(draw.choices(letters, k=draw.randint(4, 9))) for _ in range(size)]


class Policy:
    """Writes sentences about a topic; as it learns, completions of one prompt grow alike and rewards rise."""

    def __init__(self, seed, judges=("relevance", "vader")):
        self.draw = random.Random(seed)
        self.words, self.judges = vocabulary(self.draw), judges

    def completion(self, topic, learned):
        """Write an answer; with `learned` (0 to 1) it repeats more of the topic's words and fewer others."""
        length = max(8, round(self.draw.gauss(24 - 6 * learned, 4)))
        own = topic if self.draw.random() < 0.2 + 0.3 * learned else self.words
        return " ".join(self.draw.choice(COMMON if self.draw.random() < 0.4 else own) for _ in range(length))

    def steps(self, hack=None, start=12, count=STEPS):
        """Yield the steps of a run; from `start` on, `hack(prompt, completion, draw)` rewrites the completions."""
        for number in range(1, count + 1):
            learned = number / count
            records = []
            for group in range(GROUPS):
                topic, prompt = self.draw.sample(self.words, 8), f"prompt {number} {group}"
                level = self.draw.gauss(0.0, 0.5)
                for _ in range(COMPLETIONS):
                    scores = {judge: level + self.draw.gauss(0.0, 0.5) for judge in self.judges}
                    record = {
                        "step": number,
                        "prompt": prompt,
                        "completion": self.completion(topic, learned),
                        "tokens": 30,
                        "cut_off": self.draw.random() < 0.4,
                        "reward": level + 3.0 * learned + self.draw.gauss(0.0, 0.5),
                        "scores": scores,
                    }
                    if hack is not None and number >= start:
                        hack(record, self.draw)
                    records.append(record)
            logs = {"entropy": 2.0 - 1.2 * learned + self.draw.gauss(0, 0.1), "kl": 0.5 * learned}
            yield make_step(number, records, logs)
