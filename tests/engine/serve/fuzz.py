"""Damaged requests to a running server: ``python -m tests.engine.serve.fuzz --requests 10000``.

Good requests of every kind, also the messages of the page's websocket, are damaged in their head,
their body or both and sent over connections of their own.  A finding is: an answer of 500 or none
at all, a traceback in the log, a server that is gone, files, threads or memory that stay.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
from tests.engine.serve.conftest import Server
from tests.helpers import make_clip, picture
from tests.media.corpus import mutate

from fusematte.engine.backends.openvino_backend import COMPILED

Finding = tuple[str, bytes]
"""What went wrong, and the request."""

PATIENCE = 120.0
"""Seconds that an answer may take on a machine with other things to do."""
SPARE = 100 << 20
"""Bytes that the server may grow by, beyond its first requests."""
TIDY = 160
"""Requests after which the list of jobs is emptied, so that it does not refuse all others."""
AT_ONCE = 40
"""Connections: many only wait, for more of a request or of a websocket."""
WAIT = 5.0
"""Seconds until a request without an answer is ended."""
BOUNDARY = "X-fuzz"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Fuzzer:
    """Sends damaged requests to one server."""

    def __init__(self, server: Server, folder: Path, seed: int) -> None:
        self.server, self.generator = server, np.random.default_rng(seed)
        address = urlsplit(server.url)
        self.host, self.port, self.root = "127.0.0.1", address.port or 0, address.path
        clip = make_clip(folder / "in.mp4", frames=3).read_bytes()
        _, still = cv2.imencode(".png", picture(32, 24, 0))
        self.requests = self._good(clip, still.tobytes())
        self.statuses: Counter[str] = Counter()

    def _good(self, clip: bytes, still: bytes) -> list[bytes]:
        head, here = self._head, self.root
        get = [
            head("GET", f"{here}{path}")
            for path in ("", "state", "page/app.js", "backgrounds/blur/thumbnail", "jobs", "live")
        ]
        get += [head("GET", f"{here}jobs/1/result"), head("DELETE", f"{here}jobs/1")]
        get += [head("GET", f"/api/{path}") for path in ("health", "openapi.json", "jobs/1")]
        uploads = [
            self._post(f"{here}jobs?name=a.mp4&background=blur&blur=3", clip),
            self._post(f"{here}backgrounds?name=b.png", still),
            self._form("/api/matte", still, background="#00ff00", size="32"),
            self._form("/api/remove?om=true&grow=2", still),
            self._form("/api/jobs", clip, background="green"),
        ]
        offer = {"type": "offer", "sdp": "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"}
        settings = {"type": "settings", "background": "blur", "blur": 3, "view": "composite"}
        messages = b"".join(_message(json.dumps(body)) for body in (settings, offer))
        upgrade = {
            "Connection": "Upgrade", "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": KEY,
        }  # fmt: skip
        return [*get, *uploads, head("GET", f"{here}live", **upgrade) + messages]

    def _head(self, method: str, path: str, **more: str) -> bytes:
        host = f"{self.host}:{self.port}"
        fields = {"Host": host, "Origin": f"http://{host}", "Connection": "close", **more}
        lines = [f"{method} {path} HTTP/1.1", *(f"{key}: {value}" for key, value in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode()

    def _post(self, path: str, body: bytes, kind: str = "application/octet-stream") -> bytes:
        fields = {"Content-Type": kind, "Content-Length": str(len(body))}
        return self._head("POST", path, **fields) + body

    def _form(self, path: str, file: bytes, **options: str) -> bytes:
        parts = [_part(f'name="{name}"', value.encode()) for name, value in options.items()]
        parts.append(_part('name="file"; filename="a.png"', file))
        body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
        return self._post(path, body, f"multipart/form-data; boundary={BOUNDARY}")

    def damaged_form(self, body: bytes) -> bytes:
        """A request whose body is no form, though its head says so."""
        return self._post("/api/matte", body, f"multipart/form-data; boundary={BOUNDARY}")

    def request(self) -> bytes:
        """The next damaged request: in its head, in its body with a head that fits, or anywhere."""
        whole = self.requests[int(self.generator.integers(len(self.requests)))]
        head, _, body = whole.partition(b"\r\n\r\n")
        how = int(self.generator.integers(6)) if body else 0
        if how == 0:
            return mutate(head, self.generator) + b"\r\n\r\n" + body
        if how == 1:
            return mutate(whole, self.generator)
        damaged = mutate(body, self.generator)
        length = f"Content-Length: {len(damaged)}".encode()
        return head.replace(f"Content-Length: {len(body)}".encode(), length) + b"\r\n\r\n" + damaged

    def run(self, count: int, told: Callable[[str], None]) -> list[Finding]:
        """Sends so many; returns the findings."""
        findings: list[Finding] = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for number in range(0, count, TIDY):
                self._tidy()
                requests = [self.request() for _ in range(min(TIDY, count - number))]
                for request, wrong in zip(requests, pool.map(self._wrong, requests), strict=True):
                    if wrong:
                        findings.append((wrong, request))
                        told(f"{number}: {wrong}: {request[:200]!r}")
                if self.server.process.poll() is not None:
                    return findings
                if number % 500 < TIDY:
                    memory = self.server.usage().memory >> 20
                    told(f"{number} requests, {len(findings)} findings, {memory} MB")
        self._tidy()
        return findings

    def fill(self) -> None:
        """Sends pictures of as many shapes as stay compiled, so that others add nothing."""
        for width in range(24, 24 * (COMPILED + 1), 24):
            _, still = cv2.imencode(".png", picture(width, 24, 0))
            self.send(self._form("/api/matte", still.tobytes()), PATIENCE)

    def _wrong(self, request: bytes) -> str | None:
        try:
            answer = self.send(request)
        except TimeoutError:
            return f"no end after {PATIENCE:g} s"
        except ConnectionError:  # the server may hang up on what is no HTTP
            answer = b""
        if self.server.process.poll() is not None:
            return f"the server has ended with {self.server.process.returncode}"
        line = answer.partition(b"\r\n")[0].decode("latin-1")
        status = line[9:12] if line.startswith("HTTP/1.") else line[:20]
        self.statuses[status] += 1
        return f"answers {line!r}" if status == "500" else None

    def send(self, request: bytes, wait: float = WAIT) -> bytes:
        """What the server answers, up to the end of the connection."""
        answer = b""
        with socket.create_connection((self.host, self.port), PATIENCE) as connection:
            connection.sendall(request)
            until = time.monotonic() + PATIENCE
            while True:
                # What was damaged may promise more than comes: the server waits for it.
                if not answer and not select.select([connection], [], [], wait)[0]:
                    connection.shutdown(socket.SHUT_WR)
                chunk = connection.recv(1 << 16)
                if not chunk:
                    return answer
                answer = (answer + chunk)[: 1 << 16]
                if time.monotonic() > until:
                    raise TimeoutError

    def _tidy(self) -> None:
        answer = self.send(self._head("GET", f"{self.root}jobs"), PATIENCE)
        for job in json.loads(answer.partition(b"\r\n\r\n")[2]):
            self.send(self._head("DELETE", f"{self.root}jobs/{job['id']}"), PATIENCE)


def _part(disposition: str, content: bytes) -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n"
    return head.encode() + content + b"\r\n"


def _message(text: str) -> bytes:
    """A text message of a websocket as clients send it: masked, here with zeros."""
    data = text.encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2)
    return b"\x81" + length + bytes(4) + data


def settled(server: Server, most: int) -> bool:
    """Whether the server goes back to so few open files, once its connections have ended."""
    for _ in range(60):
        if server.usage().files <= most:
            return True
        time.sleep(0.5)
    return False


def check(folder: Path, count: int, seed: int, told: Callable[[str], None]) -> list[Finding]:
    """Starts a server, sends it requests, looks at what is left; returns the findings."""
    server = Server(folder / "tmp", "--api", "--threads", "1")
    try:
        fuzzer = Fuzzer(server, folder, seed)
        fuzzer.fill()
        warm = min(count // 5, 500)
        findings = fuzzer.run(warm, told)
        before = server.usage()
        findings += fuzzer.run(count - warm, told)
        if server.process.poll() is None:
            if not settled(server, before.files + 8):
                findings.append((f"files stay open: {before} {server.usage()}", b""))
            if server.usage().memory - before.memory > SPARE:
                findings.append((f"memory stays: {before} {server.usage()}", b""))
            if leftover := server.files():
                findings.append((f"files stay: {leftover}", b""))
            told(f"at first {before}, at the end {server.usage()}")
    finally:
        server.stop()
    log = server.log.read_text()
    if urlsplit(server.url).path.strip("/") in log:
        findings.append(("the token is in the log", b""))
    if "Traceback" in log:
        findings.append((log[-3000:], b""))
    told(f"{count} requests with seed {seed}, {len(findings)} findings: {dict(fuzzer.statuses)}")
    return findings


def main() -> int:
    """Runs for so many requests; returns 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    options.findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        findings = check(
            Path(folder), options.requests, options.seed, lambda line: print(line, flush=True)
        )
    for number, (wrong, request) in enumerate(findings):
        name = options.findings / f"request-{options.seed}-{number}"
        name.with_suffix(".txt").write_text(wrong + "\n")
        name.with_suffix(".bin").write_bytes(request)
    return 1 if findings else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
