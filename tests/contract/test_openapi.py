"""The service behaves as its OpenAPI document says."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = "500" if "REMOTE_REWARDS_SOAK" in os.environ else "40"
EXCLUDED_CHECK = "positive_data_acceptance"
"""JSON Schema cannot say that lists have equal lengths."""


def test_openapi_holds(rules_url, tmp_path):
    """Responses to generated requests, valid and invalid, conform to the OpenAPI document."""
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{rules_url}/openapi.json"]
    command += ["--phases", "examples,coverage,fuzzing,stateful", "--max-examples", EXAMPLES]
    command += ["--exclude-checks", EXCLUDED_CHECK, "--generation-deterministic", "--no-color"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=800)
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-1000:]
