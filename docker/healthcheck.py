"""Exit status 0 if the server in this container is ready for work: the image's HEALTHCHECK.

It runs every few seconds beside the server, so it imports little: a client from the standard library takes twice
as long to import as the whole of this takes to run.
"""

import os
import socket

HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (what listens everywhere also listens here)

host = os.environ.get("VAE_HOST") or "127.0.0.1"
port = int(os.environ.get("VAE_PORT") or 8000)
with socket.create_connection((HERE.get(host, host), port), timeout=4) as connection:
    connection.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
    answer = connection.makefile("rb").readline()
raise SystemExit(answer.split()[1:2] != [b"200"])
