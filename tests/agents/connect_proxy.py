"""A small HTTP proxy: `connect_proxy.py PORT ANSWER` answers each CONNECT so, and joins the two when that is 200."""

import contextlib
import socket
import sys
import threading


def pour(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
    except OSError:
        pass
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def serve(client: socket.socket, answer: str) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        piece = client.recv(1)
        if not piece:
            return
        head += piece
    method, target, version = head.split(b"\r\n")[0].decode().split()
    assert (method, version) == ("CONNECT", "HTTP/1.1")
    print(target, flush=True)
    if answer == "silence":
        return
    host, port = target.rsplit(":", 1)
    client.sendall(answer.encode().decode("unicode_escape").encode("latin-1") + b"\r\n\r\n")
    if " 200 " in answer:
        jobd = socket.create_connection((host, int(port)))
        threading.Thread(target=pour, args=(client, jobd), daemon=True).start()
        pour(jobd, client)
    else:
        client.close()


def main() -> None:
    held = []
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        print("ready", flush=True)
        while True:
            client, _ = listener.accept()
            held.append(client)
            threading.Thread(target=serve, args=(client, sys.argv[2]), daemon=True).start()


main()
