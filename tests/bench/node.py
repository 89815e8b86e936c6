"""Measures what users get: the packages on a booted Debian, asked over the network as three HAProxies do. Prints
a table. README.md tells what and how.

    node.py [--short]
    node.py client RATE SECONDS     asks RATE times a second; prints each answer's milliseconds
    node.py crowd COUNT             asks COUNT times at one moment"""

import atexit
import json
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

LEADER = b"HTTP/1.1 200 OK"
NODE = "10.0.0.101"
PORT = 9201
PROJECT = Path.cwd()
# A node that leads. The client's stand-in reads /run/list and writes /run/runs.
PREPARE = f"""
    cp {PROJECT}/target/dist/*.deb opt
    cp {PROJECT}/target/bench/s9s usr/local/bin/s9s
    echo 'RPC_BIND_ADDRESSES="127.0.0.1,{NODE}"' >etc/default/cmon
    printf 'S VERSION OWNER  GROUP  NAME       IP         PORT COMMENT\\n' >run/list
    printf 'l 2.3.4   system admins {NODE} {NODE} 9501 Acting as leader.\\nTotal: 1 controller(s)\\n' >>run/list
    chmod 644 run/list
    touch run/runs
    chmod 666 run/runs
    mkdir -p etc/systemd/system/cmonhachk.service.d
    printf '[Service]\\nReadWritePaths=/run/runs\\n' >etc/systemd/system/cmonhachk.service.d/own.conf
"""


def fail(what):
    sys.exit(f"bench: {what}")


def ask(answers):
    """Adds the milliseconds that one right answer took, or None."""
    begin = time.monotonic()
    took = None
    try:
        with socket.create_connection((NODE, PORT), timeout=10) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")
            answer = b""
            while more := client.recv(4096):
                answer += more
        if answer.startswith(LEADER):
            took = (time.monotonic() - begin) * 1000
        else:
            print(answer, file=sys.stderr)
    except OSError as error:
        print(error, file=sys.stderr)
    answers.append(took)


def client(rate, seconds):
    answers, threads, begin = [], [], time.monotonic()
    for at in range(int(rate * seconds)):
        time.sleep(max(0, begin + at / rate - time.monotonic()))
        threads.append(threading.Thread(target=ask, args=[answers]))
        threads[-1].start()
    for thread in threads:
        thread.join()
    print(json.dumps(answers))


def crowd(count):
    """All connections are begun before the first answer is read. They come from 200 addresses, because the listener
    gives each client its share."""
    subprocess.run(["ip", "address", "replace", "10.9.0.1/24", "dev", "lo"], check=True)
    poll, clients, begin = select.poll(), {}, time.monotonic()
    for number in range(count):
        one = socket.socket()
        one.setblocking(False)
        one.bind((f"10.9.0.{number % 200 + 1}", 0))
        one.connect_ex((NODE, PORT))
        clients[one.fileno()] = [one, False, b""]
        poll.register(one, select.POLLOUT)
    answers = []
    while clients and time.monotonic() - begin < 20:
        for number, _ in poll.poll(1000):
            one, sent, answer = clients[number]
            try:
                if not sent:
                    one.sendall(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")
                    clients[number][1] = True
                    poll.modify(one, select.POLLIN)
                    continue
                more = one.recv(4096)
            except OSError:
                more = b""
            clients[number][2] += more
            if not more:
                answers.append((time.monotonic() - begin) * 1000 if answer.startswith(LEADER) else None)
                poll.unregister(one)
                one.close()
                del clients[number]
    print(json.dumps(answers + [None] * len(clients)))


class Node:
    """A booted Debian with the packages; its control group holds all its processes."""

    def __init__(self, suite, mounts, xinetd):
        self.folder = Path(tempfile.mkdtemp(prefix="cmonhachk-bench."))
        atexit.register(self.end)
        (self.folder / "root").mkdir()
        hierarchy = next(line.split()[1] for line in open("/proc/self/mounts") if line.split()[2] == "cgroup2")
        self.group = Path(hierarchy) / self.folder.name
        self.group.mkdir()
        self.process = subprocess.Popen(
            ["tests/sim/boot-systemd", self.folder, self.group, f"target/roots/{suite}", "multi-user.target", PREPARE],
            stdin=subprocess.PIPE,
        )
        until = time.monotonic() + 60
        while self.run("systemctl is-active multi-user.target", check=False) != "active\n":
            time.sleep(0.1)
            time.monotonic() < until or fail(f"{suite} does not boot")
        self.run(f"for at in $(seq {mounts}); do mkdir -p /mnt/$at; mount --bind /usr/share /mnt/$at; done")
        packages = "cmonhachk_*_$(dpkg --print-architecture).deb"
        packages += " cmonhachk-xinetd_*.deb" if xinetd else ""
        install = "apt-get install -qq --yes --no-install-recommends"
        self.run(f"cd /opt; DEBIAN_FRONTEND=noninteractive {install} $(printf './%s ' {packages}) >/dev/null 2>&1")
        self.answers("client", 5, 2)

    def first(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        named = [pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "systemd\n"]
        return named[0] if named else None

    def run(self, command, check=True):
        first = self.first()
        if not first:
            return ""
        inside = ["nsenter", "--target", first, "--mount", "--pid", "--net", "--root", "--wd", "env", "-i"]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        # Not in the node's control group.
        done = subprocess.run([*inside, path, "sh", "-euc", command], capture_output=True, text=True)
        check and done.returncode and fail(f"{command}: {done.stderr}")
        return done.stdout

    def answers(self, *arguments):
        """The milliseconds of each answer of `node.py client` or `node.py crowd`, run outside of the group."""
        command = ["nsenter", f"--net=/proc/{self.first()}/ns/net", sys.executable, __file__, *map(str, arguments)]
        answers = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        wrong = answers.count(None)
        wrong and fail(f"{arguments}: {wrong} of {len(answers)} answers are not right")
        return answers

    def cpu(self):
        """The CPU milliseconds of the whole node since its boot."""
        return int((self.group / "cpu.stat").read_text().split()[1]) / 1000

    def listener(self):
        """What the service has: KiB of memory, descriptors, processes."""
        pid = self.run("systemctl show --property MainPID --value cmonhachk.service").strip()
        rss = self.run(f"sed -n 's/^VmRSS:[^0-9]*//p' /proc/{pid}/status | cut -d ' ' -f 1").strip()
        return [int(rss), *map(int, self.run(f"ls /proc/{pid}/fd | wc -l; pgrep -c cmonhachk").split())]

    def end(self):
        atexit.unregister(self.end)
        self.process.stdin.close()
        self.process.wait()
        until = time.monotonic() + 10
        while self.group.exists() and time.monotonic() < until:
            subprocess.run(["find", self.group, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"], stderr=subprocess.DEVNULL)
            time.sleep(0.05)
        shutil.rmtree(self.folder)


def row(suite, xinetd, mounts, seconds, short):
    node = Node(suite, mounts, xinetd)
    before = node.cpu()
    answers = sorted(node.answers("client", 24, seconds))
    cpu = (node.cpu() - before) / len(answers)
    # xinetd's queue holds 64.
    last = "" if xinetd else statistics.median(max(node.answers("crowd", 400)) for _ in range(1 if short else 5))
    node.end()
    name = {"bookworm": "Debian 12", "trixie": "Debian 13"}[suite]
    return [
        f"{name}, {'xinetd' if xinetd else 'systemd'}",
        f"{mounts}",
        f"{cpu:.2f}",
        f"{cpu * 24 / 10:.1f} %",
        f"{statistics.median(answers):.1f}",
        f"{answers[int(len(answers) * 0.99)]:.1f}",
        last and f"{last:.0f}",
    ]


def kernel():
    """The KiB that the machine's kernel has and cannot give back, and its stacks."""
    memory = dict(line.split()[:2] for line in open("/proc/meminfo"))
    return int(memory["SUnreclaim:"]) + int(memory["KernelStack:"])


def growth(checks, pause):
    node = Node("bookworm", 0, False)
    before = [*node.listener(), kernel()]
    begin = time.monotonic()
    url = f"http://{NODE}:{PORT}/"
    command = ["nsenter", f"--net=/proc/{node.first()}/ns/net", "wrk", "-t1", "-c8"]
    made = 0
    while made < checks:
        said = subprocess.run([*command, "-d5", url], check=True, capture_output=True, text=True).stdout
        "Non-2xx" in said and fail(said)
        made += int(said.split(" requests in ")[0].split()[-1])
    seconds = time.monotonic() - begin
    after = node.listener()
    # The kernel remembers a closed connection for a minute.
    time.sleep(pause)
    after.append(kernel())
    node.end()
    print(f"\n**The listener before {made:,} checks** in {seconds:.0f} s and after them, the kernel {pause} s later (Debian 12)\n")
    print("| memory, KiB | descriptors | processes | unreclaimable slab and kernel stacks of the machine, KiB |\n|---|---|---|---|")
    print("|", " | ".join(f"{old} → {new}" for old, new in zip(before, after)), "|", flush=True)


def main(short):
    seconds = 1 if short else 30
    suites = ["bookworm"] if short else ["bookworm", "trixie"]
    cases = [(suite, False, mounts) for suite in suites for mounts in ([0] if short else [0, 300, 700])]
    cases += [(suite, True, 0) for suite in suites]
    print("\n**A node that three HAProxies check, 24 times a second**: the packages, on a booted Debian\n")
    heads = ["node, served by", "mounts added", "CPU ms a check, of the whole node", "of one core"]
    heads += ["median answer, ms", "99 %", "400 at one moment: the last, ms"]
    print("|", " | ".join(heads), "|")
    print("|---" * len(heads) + "|")
    for case in cases:
        print("|", " | ".join(row(*case, seconds, short)), "|", flush=True)
    growth(*([1000, 3] if short else [100_000, 70]))


match sys.argv[1:]:
    case ["client", rate, seconds]:
        client(float(rate), float(seconds))
    case ["crowd", count]:
        crowd(int(count))
    case options:
        main(options == ["--short"])
