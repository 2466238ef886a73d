"""Between clients and a server: withhold.py SOCKET SERVER_SOCKET

Passes on what both send, one client at a time, but withholds the answers while the client is within a transaction. A client that waits for
one before it has sent COMMIT waits forever.
"""
import re
import select
import socket
import sys


def pass_on(client, server):
    withheld, within = b"", 0
    while True:
        for ready in select.select([client, server], [], [])[0]:
            data = ready.recv(65536)
            if not data:
                return
            if ready is client:
                within += len(re.findall(rb"\bBEGIN\b", data)) - len(re.findall(rb"\bCOMMIT\b", data))
                server.sendall(data)
            else:
                withheld += data
            if not within and withheld:
                client.sendall(withheld)
                withheld = b""


with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    while True:
        with listener.accept()[0] as from_client, socket.socket(socket.AF_UNIX) as to_server:
            to_server.connect(sys.argv[2])
            pass_on(from_client, to_server)
