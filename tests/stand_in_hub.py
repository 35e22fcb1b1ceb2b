"""A model hub on this machine: it speaks the endpoints that huggingface_hub calls to push a folder."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml

TOKEN, OWNER = "hf_stand_in", "somebody"
LARGE_FILES = (".safetensors", ".bin", ".pt")
BASE_MODEL = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass
class Hub:
    """The files of each repository, and the messages of its commits."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def create(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Create a repository."""
        name = f"{body.get('organization') or OWNER}/{body['name']}"
        if name.split("/")[0] != OWNER:
            return 403, {"error": f"You don't have the rights to create a model under the namespace {name}"}
        status = 409 if name in self.files else 200
        self.files.setdefault(name, {})
        return status, {"url": f"{self.url}/{name}", "name": name}

    def validate(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Check the metadata of a model card as the hub does."""
        header = yaml.safe_load(body["content"].split("---")[1])
        base = header.get("base_model", "a/b")
        errors = [] if BASE_MODEL.fullmatch(base) else [{"message": f'"base_model" {base} is not a model id'}]
        return (400 if errors else 200), {"errors": errors, "warnings": []}

    def preupload(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return for each file whether it is uploaded as a large one."""
        modes = [(file["path"], "lfs" if file["path"].endswith(LARGE_FILES) else "regular") for file in body["files"]]
        return 200, {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes]}

    def batch(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return where large files are uploaded to."""
        actions = {item["oid"]: {"upload": {"href": f"{self.url}/blobs/{item['oid']}"}} for item in body["objects"]}
        return 200, {"transfer": "basic", "objects": [{**i, "actions": actions[i["oid"]]} for i in body["objects"]]}

    def commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        """Add the files of a commit."""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "file":
                self.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[name][value["path"]] = self.blobs[value["oid"]]
        return 200, {"commitUrl": f"{self.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40}

    def respond(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return the status and the content of a response."""
        name = "/".join(path.split("/")[3:5])
        if path.startswith("/blobs/"):
            self.blobs[path.removeprefix("/blobs/")] = body
            return 200, {}
        if "/commit/" in path:
            return self.commit(name, [json.loads(line) for line in body.splitlines()])
        content = json.loads(body)
        if path == "/api/repos/create":
            return self.create(content)
        if path == "/api/validate-yaml":
            return self.validate(content)
        return self.preupload(content) if "/preupload/" in path else self.batch(content)


@contextmanager
def stand_in_hub() -> Iterator[Hub]:
    """Run a hub, and yield it."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Respond to any request."""
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            is_blob = self.path.startswith("/blobs/")  # their addresses are signed
            if self.command == "GET":
                return self.respond(404, {"error": "Repository not found"})
            known = is_blob or self.headers.get("Authorization") == f"Bearer {TOKEN}"
            response = hub.respond(self.path.partition("?")[0], body) if known else (401, {"error": "Unauthorized"})
            return self.respond(*response)

        def respond(self, status: int, content: dict[str, Any]) -> None:
            """Send a response in JSON."""
            payload = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_PUT = do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
