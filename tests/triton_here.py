"""A server on this machine that answers Towhee's client as Triton does with the model ``pipeline``."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from towhee.utils.serializer import from_triton_data, to_triton_data
from tritonclient.utils import deserialize_bytes_tensor


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        described = int(self.headers.get("Inference-Header-Content-Length", length))
        body = self.rfile.read(length)
        told = json.loads(body[:described])
        assert (self.path, told["inputs"][0]["name"]) == ("/v2/models/pipeline/infer", "INPUT0")
        rows = [from_triton_data(one) for one in deserialize_bytes_tensor(body[described:]).tolist()]
        # what towhee.serve.triton.bls.pipeline_model does with them
        answered = to_triton_data([queue.to_list() for queue in self.server.pipeline.batch(rows)])
        output = {"name": "OUTPUT0", "datatype": "BYTES", "shape": [1], "data": [answered]}
        content = json.dumps({"model_name": "pipeline", "model_version": "1", "outputs": [output]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def start(pipeline: Any, port: int = 0) -> ThreadingHTTPServer:
    """Serve a pipeline until ``shutdown()``."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.daemon_threads = True
    server.pipeline = pipeline
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@contextmanager
def serving(pipeline: Any) -> Iterator[str]:
    """The address, until the block ends."""
    server = start(pipeline)
    try:
        yield f"localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
