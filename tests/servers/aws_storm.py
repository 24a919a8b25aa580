"""AWS in bad weather: before a lab's API, a server that fails some calls, before or after they are carried out."""

import http.client
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from reaper.adapters.aws.control_plane import Fate, action_of

Rule = Callable[[str], Fate]  # by the call's name, as `RunInstances`
_NOT_PASSED_ON = {"host", "connection", "content-length", "transfer-encoding"}


class Storm:
    """What becomes of calls, and what became of them. `rule` may be changed at any time; calls are judged in turn."""

    def __init__(self, behind: str) -> None:
        self.rule: Rule = fair
        self.calls: Counter[tuple[str, Fate]] = Counter()
        self._behind = urlsplit(behind)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def failed(self, fate: Fate | None = None) -> int:
        """How many calls have failed, in one way or in any."""
        return sum(n for (_, seen), n in self.calls.items() if seen is fate or (fate is None and seen != Fate.SERVED))

    def judge(self, action: str) -> Fate:
        """What becomes of a call."""
        with self._lock:
            fate = self.rule(action)
            self.calls[action, fate] += 1
            return fate

    def forward(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The lab's own answer."""
        connection = http.client.HTTPConnection(self._behind.hostname or "", self._behind.port, timeout=120)
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        storm = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                target = self.headers.get("X-Amz-Target")
                action = action_of({"HTTP_X_AMZ_TARGET": target} if target else {}, body)
                fate = storm.judge(action)
                if fate is Fate.THROTTLED:
                    self._say(503, *_refusal(target is not None, "RequestLimitExceeded", "slow down"))
                    return
                headers = {k: v for k, v in self.headers.items() if k.lower() not in _NOT_PASSED_ON}
                status, kind, answer = storm.forward(self.path, headers, body)
                if fate is Fate.LOST:
                    self._say(500, *_refusal(target is not None, "InternalError", "the answer was lost"))
                else:
                    self._say(status, kind.get("Content-Type", "text/xml"), answer)

            def _say(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        return Handler

    @contextmanager
    def blowing(self) -> Iterator["Storm"]:
        """Serve for as long as the block lasts."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(10)


def fair(_action: str) -> Fate:
    """Every call is served."""
    return Fate.SERVED


def _refusal(by_json: bool, code: str, why: str) -> tuple[str, bytes]:
    if by_json:
        return "application/x-amz-json-1.1", f'{{"__type": "{code}", "message": "{why}"}}'.encode()
    error = f"<Error><Code>{code}</Code><Message>{why}</Message></Error>"
    return "text/xml", f"<Response><Errors>{error}</Errors><RequestID>storm</RequestID></Response>".encode()
