"""An OpenAI-compatible endpoint on loopback: answers as told, with faults on demand, and counts what it is asked."""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-recognisable-7c1f9e"  # what the tests put into the environment and look for everywhere
REFERENCE = re.compile(r"# Reference answer\n(.*)\n")
PASSING = ("429", "500", "stall", "cut", "cut_body")  # faults that a second request does not meet
LASTING = ("json", "empty", "refusal", "filter", "400", "wrong", "long")  # the answer itself is at fault, every time


def asked_of(body: dict) -> tuple[str, str]:
    """The text of the user turn and the reference answer in it (its letter), if any."""
    content = body["messages"][-1]["content"]
    text = next(part["text"] for part in content if part["type"] == "text")
    found = REFERENCE.search(text)
    return text, re.sub(r"^([A-Z])\. .*", r"\1", found[1]) if found else ""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Clients that are killed, and connections that a fault cuts, are what the tests are about."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Loopback:
    """A server in threads of this process. `fault(text, number)` names the fault that the number-th request with this
    user turn meets, or None; `asked` counts requests by user turn, `bodies` holds them."""

    def __init__(self, fault: Callable[[str, int], str | None] = lambda *_: None, stall: float = 3.0, delay: float = 0):
        self.fault, self.stall, self.delay = fault, stall, delay
        self.asked: Counter = Counter()
        self.bodies: list[dict] = []
        self.keys: set[str] = set()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.polls: Counter = Counter()
        self.most_at_once, self.at_once, self.most_choices = 0, 0, 1000
        self.times: list[float] = []
        self.dead = False
        self.lock = threading.Lock()
        self.server = Server(("127.0.0.1", 0), self.handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self) -> Loopback:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def kill(self) -> None:
        """As a process that is killed: connections drop, and no new one is made."""
        self.dead = True
        self.__exit__()

    def completion(self, body: dict, fault: str | None) -> tuple[int, dict]:
        """Status and body; the answer repeats the reference, as a good teacher's would."""
        _, answer = asked_of(body)
        said, reason, refusal = f"The image shows it.\n### Answer: {answer}", "stop", None
        if fault == "400":
            return 400, {"error": {"message": f"bad request of Bearer {KEY}", "type": "invalid_request_error"}}
        if fault == "wrong":
            said = "The image shows it.\n### Answer: 31337"
        if fault == "long":
            said, reason = "so it goes on " * 20_000, "length"
        if fault == "refusal":
            said, reason, refusal = None, "stop", "I cannot help with that."
        if fault == "filter":
            said, reason = "The image", "content_filter"
        choice = {"finish_reason": reason, "message": {"role": "assistant", "content": said, "refusal": refusal}}
        if body.get("n", 1) > self.most_choices:
            return 400, {"error": {"message": "n is too large", "type": "invalid_request_error"}}
        choices = [{"index": i, **choice} for i in range(body.get("n", 1))]
        usage = {"prompt_tokens": 1000, "completion_tokens": 100 * len(choices), "total_tokens": 0}
        return 200, {"object": "chat.completion", "choices": [] if fault == "empty" else choices, "usage": usage}

    def result(self, line: bytes) -> dict:
        """One line of a batch's output."""
        row = json.loads(line)
        text, _ = asked_of(row["body"])
        with self.lock:
            self.asked[text] += 1
            fault = self.fault(text, self.asked[text])
        status, body = self.completion(row["body"], fault)
        return {
            "id": "r",
            "custom_id": row["custom_id"],
            "response": {"status_code": status, "body": body},
            "error": None,
        }

    def batch(self, identity: str) -> dict:
        """A batch object: in progress when first looked at, then over."""
        made = self.batches[identity]
        self.polls[identity] += 1
        if self.polls[identity] > 1 and "output_file_id" not in made:
            lines = [self.result(line) for line in self.files[made["input_file_id"]].splitlines()]
            lost = [line for line in lines if self.fault(line["custom_id"], 0) == "lost"]
            output = "".join(json.dumps(line) + "\n" for line in reversed(lines) if line not in lost)
            self.files[f"out-{identity}"] = output.encode()
            made |= {"status": "expired" if lost else "completed", "output_file_id": f"out-{identity}"}
        return made

    def handler(self) -> type[BaseHTTPRequestHandler]:
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def send(self, status: int, body: dict | bytes, **headers: str) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(data)

            def read(self) -> bytes:
                data = self.rfile.read(size := int(self.headers["Content-Length"]))
                if len(data) < size:
                    raise ConnectionError("the client left")
                return data

            def cut(self) -> None:
                """Reset the connection: the other side sees it drop."""
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True

            def do_POST(self):
                loopback.keys.add(self.headers.get("Authorization", ""))
                data = self.read()
                if self.path.endswith("/files"):
                    return self.upload(data)
                body = json.loads(data)
                if self.path.endswith("/batches"):
                    identity = f"batch-{len(loopback.batches)}"
                    loopback.batches[identity] = {"id": identity, "object": "batch", "status": "in_progress", **body}
                    return self.send(200, loopback.batches[identity])
                text, _ = asked_of(body)
                with loopback.lock:
                    loopback.at_once += 1
                    loopback.most_at_once = max(loopback.most_at_once, loopback.at_once)
                    loopback.asked[text] += 1
                    loopback.bodies.append(body)
                    loopback.times.append(time.monotonic())
                    fault = loopback.fault(text, loopback.asked[text])
                try:
                    time.sleep(loopback.delay)
                    if fault == "killed":
                        loopback.kill()
                    if loopback.dead:
                        return self.cut()
                    self.chat(body, fault)
                finally:
                    with loopback.lock:
                        loopback.at_once -= 1

            def chat(self, body: dict, fault: str | None) -> None:
                error = {"error": {"message": f"{fault} for Bearer {KEY}"}}
                if fault == "429":
                    return self.send(429, error, Retry_After_Ms="50")
                if fault and fault.startswith("429 "):
                    return self.send(429, error, Retry_After=fault.removeprefix("429 "))
                if fault in ("500", "401"):
                    return self.send(int(fault), error)
                if fault == "stall":
                    time.sleep(loopback.stall)
                    return self.cut()
                if fault == "cut":
                    return self.cut()
                status, answer = loopback.completion(body, fault)
                data = json.dumps(answer).encode()
                if fault == "json":
                    return self.send(200, data[: len(data) // 2] + KEY.encode())
                if fault == "cut_body":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2])
                    self.wfile.flush()
                    return self.cut()
                self.send(status, data)

            def upload(self, data: bytes) -> None:
                """The file in a multipart form."""
                boundary = self.headers["Content-Type"].split("boundary=")[1].strip('"').encode()
                part = next(p for p in data.split(b"--" + boundary) if b'name="file"' in p)
                identity = f"file-{len(loopback.files)}"
                loopback.files[identity] = part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
                self.send(200, {"id": identity, "object": "file", "purpose": "batch", "filename": "x", "bytes": 1})

            def do_GET(self):
                parts = self.path.split("?")[0].split("/")
                if parts[-1] == "content":
                    return self.send(200, loopback.files[parts[-2]])
                if parts[-1] == "batches":
                    return self.send(
                        200, {"object": "list", "data": list(loopback.batches.values()), "has_more": False}
                    )
                self.send(200, loopback.batch(parts[-1]))

        return Handler
