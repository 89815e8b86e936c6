#!/usr/bin/python3
"""The script's way, to compare with: the interpreter's start, regular expressions, s9s through
subprocess, and a lock that is a file's existence. Kinder than the article's script in that it reads
the request and sends one well-formed answer."""

import os
import re
import subprocess
import sys

LOCK = "/run/script.lock"
# xinetd passes no PATH on.
S9S = ["/usr/local/sbin/s9s", "controller", "--list", "--long"]
ANSWER = (
    "HTTP/1.1 {}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n"
    "Cache-Control: no-store\r\nCmonhachk-State: {}\r\n\r\n{}"
)


def state():
    with open("/etc/default/cmon") as defaults:
        assignment = re.search(r'^RPC_BIND_ADDRESSES="?([^"\n]*)', defaults.read(), re.MULTILINE)
    addresses = re.findall(r"\d{1,3}(?:\.\d{1,3}){3}", assignment[1])
    own = next(address for address in addresses if address != "127.0.0.1")
    rows = subprocess.check_output(S9S, text=True, stdin=subprocess.DEVNULL)
    row = re.search(rf"^([lf]) .* {re.escape(own)} ", rows, re.MULTILINE)
    return {"l": "leader", "f": "follower"}[row[1]]


os.read(0, 8192)
if os.path.exists(LOCK):
    print("The lock file is there")
    sys.exit(1)
open(LOCK, "w").close()
try:
    role = state()
finally:
    os.remove(LOCK)
body = f"<html><body>This node is a {role}.</body></html>"
status = "200 OK" if role == "leader" else "503 Service Unavailable"
sys.stdout.write(ANSWER.format(status, len(body), role, body))
