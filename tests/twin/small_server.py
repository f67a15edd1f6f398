"""A stand-in for a single-user server, which starts in milliseconds: run as `python -I -S small_server.py`.

A file in its folder makes it misbehave: `exits` ends it with code 3 at once, `slow` lets it listen
only when the file is gone, `lingers` lets it ignore every polite signal.
"""

import _signal
import os
import socket
import time

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-JupyterHub-Version: 6.1.1\r\nConnection: close\r\n"


def main() -> None:
    if os.path.exists("exits"):
        os._exit(3)
    ending = _signal.SIG_IGN if os.path.exists("lingers") else _signal.SIG_DFL
    for number in (_signal.SIGINT, _signal.SIGTERM):
        _signal.signal(number, ending)
    while os.path.exists("slow"):
        time.sleep(0.02)
    host, _, port = os.environ["JUPYTERHUB_SERVICE_URL"].split("/")[2].rpartition(":")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    listener.listen(64)
    body = '{"user": "%s", "server": "%s"}' % (os.environ["JUPYTERHUB_USER"], os.environ.get("JUPYTERHUB_SERVER_NAME", ""))
    answer = f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode()
    while True:
        stream, _ = listener.accept()
        try:
            stream.settimeout(5)
            request = b""
            while b"\r\n\r\n" not in request and (piece := stream.recv(65536)):
                request += piece
            stream.sendall(answer)
        except OSError:
            pass
        stream.close()


main()
