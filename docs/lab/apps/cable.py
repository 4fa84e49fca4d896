"""The cable between a node and the managers: passes every connection on, until it stands still.

    cable.py PORT TARGET_HOST TARGET_PORT

Stopped with SIGSTOP it is a cable that was pulled: what is sent gets lost, and nobody is told. It
sees what a wire sees: ciphertext.
"""

import contextlib
import socket
import sys
import threading

HOST = "127.0.0.1"
SIZE = 65_536


def pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Copy one direction to its end, and end both."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(SIZE):
            sink.sendall(chunk)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def main(port: int, target: tuple[str, int]) -> None:
    """Pass connections on until ended."""
    with socket.create_server((HOST, port)) as listener:
        sys.stdout.write(f"cable: plugged in, to port {target[1]}\n")
        sys.stdout.flush()
        while True:
            near, _ = listener.accept()
            try:
                far = socket.create_connection(target)
            except OSError:
                near.close()
                continue
            for ends in ((near, far), (far, near)):
                threading.Thread(target=pass_on, args=ends, daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), (sys.argv[2], int(sys.argv[3])))
