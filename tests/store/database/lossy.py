"""A line to PostgreSQL that breaks after a COMMIT was done and before its answer came: nobody knows what happened."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class LossyLine:
    """Listens on `port` and passes everything on, until the answer that it was told to lose."""

    def __init__(self, port_behind: int) -> None:
        self._behind = port_behind
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._commits_left = 0  # until the one whose answer is lost; 0: none is
        self.num_lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, url: str) -> str:
        """`url`, by way of this line."""
        return url.replace(f":{urlsplit(url).port}/", f":{self.port}/")

    def lose(self, number: int) -> None:
        """The answer to the `number`-th COMMIT from now."""
        self._commits_left = number

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._behind))
                is_lost = threading.Event()
                threading.Thread(target=self._pass_on, args=(client, server, is_lost), daemon=True).start()
                threading.Thread(target=self._pass_back, args=(server, client, is_lost), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket, is_lost: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                if b"COMMIT" in data and self._commits_left:
                    self._commits_left -= 1
                    if not self._commits_left:
                        is_lost.set()
                server.sendall(data)
        _end(client, server)

    def _pass_back(self, server: socket.socket, client: socket.socket, is_lost: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if is_lost.is_set():  # the server has answered: it is done
                    self.num_lost += 1
                    break
                client.sendall(data)
        _end(client, server)


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
