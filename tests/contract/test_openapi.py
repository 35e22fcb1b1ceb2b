"""What the API's own document says is what it does, whatever is sent."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = "500" if "REMOTE_REWARDS_SOAK" in os.environ else "40"
UNSAYABLE = "positive_data_acceptance"
"""That lists have one length is more than a JSON schema can say."""


def test_no_request_that_the_document_allows_or_forbids_is_answered_otherwise(rules_url, tmp_path):
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{rules_url}/openapi.json"]
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--max-examples", EXAMPLES]
    command += ["--exclude-checks", UNSAYABLE, "--generation-deterministic", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
