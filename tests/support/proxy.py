"""A proxy before a server, which loses answers."""

from __future__ import annotations

import socket
import threading

_WRITES = (b"EVALSHA", b"HSET", b"UNLINK")


class Proxy:
    """Passes bytes on to a server; if ``lose`` is set, it closes the connection in place of the next answer."""

    def __init__(self, port: int, lose: threading.Event) -> None:
        self._target = port
        self._lose = lose
        self._listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> int:
        threading.Thread(target=self._accept, daemon=True).start()
        return int(self._listener.getsockname()[1])

    def __exit__(self, *args: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._target)) as far:
            while data := near.recv(1 << 20):
                far.sendall(data)
                answer = far.recv(1 << 20)
                if self._lose.is_set() and any(word in data for word in _WRITES):
                    self._lose.clear()
                    return
                near.sendall(answer)
