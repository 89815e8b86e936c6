"""Takes all measurements and prints them; README.md tells what and how. Started by run.sh, in
namespaces where this node's paths and port 9201 are the benchmark's own."""

import contextlib
import itertools
import os
import random
import re
import resource
import select
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

SHORT = "--short" in sys.argv
# Other builds of cmonhachk, to compare with.
OTHERS = {path: Path(path) for path in sys.argv[1:] if path != "--short"}
BENCH = Path("tests/bench")
OUT = Path("target/bench").resolve()
S9S = OUT / "path/s9s"
LOCK = Path("/run/cmonhachk/lock")
SCRIPT_LOCK = Path("/run/script.lock")
RUNS = Path("/run/runs")
SERVICE = Path("deploy/xinetd/cmonhachk").read_text()
# Long enough that a busy machine or valgrind does not change the answer.
PATIENT = ["--timeout", "60"]
FRESH = [*PATIENT, "--max-age", "0"]
# The whole environment that xinetd gives the service.
ENVIRONMENT = {"REMOTE_HOST": "127.0.0.1"}
REQUEST = b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"
LEADER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 48\r\nConnection: close\r\n"
    b"Cache-Control: no-store\r\nCmonhachk-State: leader\r\n\r\n<html><body>This node is a leader.</body></html>"
)
PROFILE = Path("/run/callgrind")
VALGRIND = ["/usr/bin/valgrind", "--tool=callgrind", f"--callgrind-out-file={PROFILE}", "--log-file=/run/valgrind"]
CMONHACHK = {"cmonhachk": Path("target/dist/cmonhachk"), **OTHERS}
PROGRAMS = {"floor": OUT / "floor", "glibc floor": OUT / "floor-glibc", **CMONHACHK, "script": BENCH / "script.py"}

count = itertools.count(1)


def check(is_so, what):
    """A measurement that went wrong is an error, not a figure."""
    if not is_so:
        sys.exit(f"bench: {what}")


def forget():
    """Removes the lock files and the cached verdicts."""
    for path in [*LOCK.parent.iterdir(), *Path("/run").glob("*.lock")]:
        path.unlink(missing_ok=True)


def fresh_copy(program, to=None):
    """A copy in its own file: the place of an executable's bytes in the page cache makes up to a tenth
    of its start time, so no single copy may decide the result."""
    copy = OUT / f"{program.name}.{next(count)}"
    shutil.copy(program, copy)
    return copy.rename(to) if to else copy


def in_random_order(things):
    return random.sample(list(things), len(things))


def middle(values, digits=2):
    """The median, and the spread around it."""
    values = sorted(values)
    return f"{statistics.median(values):.{digits}f} ({values[0]:.{digits}f} to {values[-1]:.{digits}f})"


def table(title, *rows):
    print(f"\n{title}\n")
    for at, row in enumerate(rows):
        print("|", " | ".join(str(cell) for cell in row), "|")
        if at == 0:
            print("|---" * len(row) + "|")
    sys.stdout.flush()


def write_list(controllers):
    """The list as the genuine client prints it; the last of the controllers is this node, and leads."""
    names = [f"10.1.{at // 250}.{at % 250 + 1}" for at in range(controllers - 1)] + ["10.0.0.101"]
    width = max(map(len, names))
    lines = [f"S VERSION     OWNER  GROUP  {'NAME':{width}} {'IP':{width}} PORT COMMENT"]
    for name in names:
        state, comment = ("l", "Acting as leader.") if name == names[-1] else ("f", "Accepting heartbeats.")
        lines.append(f"{state} 2.3.4.11302 system admins {name:{width}} {name:{width}} 9501 {comment}")
    lines.append(f"Total: {controllers} controller(s)\n")
    Path("/run/list").write_text("\n".join(lines))


def write_defaults(size):
    """A defaults file of this many bytes. The last assignment counts; the only one comes first, so that
    the whole file must be read."""
    line = 'RPC_BIND_ADDRESSES="127.0.0.1,10.0.0.101"\n'
    others = "# The port that the controller listens on, 9500 unless set.\nRPC_PORT=9500\n"
    Path("/etc/default/cmon").write_text((line + others * size)[:size])


class Spawned(NamedTuple):
    """A program that has answered: wall and CPU time in milliseconds, peak memory in MiB."""

    took: float
    cpu: float
    memory: float


def spawn(*command, expected):
    """Starts the command on a connection; it must give the expected answer."""
    done = subprocess.run([OUT / "spawn", *command], env=ENVIRONMENT, capture_output=True)
    figures, _, answer = done.stdout.partition(b"\n")
    check(done.returncode == 0 and answer == expected, f"{command}: {done.stderr} {answer[-1000:]}")
    took, cpu, memory = map(int, figures.split())
    return Spawned(took / 1000, cpu / 1000, memory / 1024)


class Xinetd:
    """xinetd with the deployed service file, for another program and user, on its own address: so the
    closed connections of the previous one do not disturb it."""

    def __init__(self, program, **environment):
        self.program = fresh_copy(program)
        self.address = (f"127.0.1.{next(count) % 250 + 1}", 9201)
        service = SERVICE.replace("= /usr/sbin/cmonhachk", f"= {self.program}").replace("= cmonhachk\n", "= root\n")
        lines = [f"bind = {self.address[0]}"] + [f"env = {name}={value}" for name, value in environment.items()]
        conf, log, pid = (Path(f"/run/xinetd.{name}") for name in ("conf", "log", "pid"))
        conf.write_text(service.replace("}\n", "\n".join(lines) + "\n}\n"))
        log.write_text("")
        forget()
        self.process = subprocess.Popen(
            ["prlimit", f"--nofile={DESCRIPTORS}:", "xinetd", "-dontfork", "-f", conf, "-filelog", log, "-pidfile", pid],
            stdin=subprocess.DEVNULL,
        )
        patience = time.monotonic() + 10
        while "Started working: 1 available service" not in log.read_text():
            check(time.monotonic() < patience and self.process.poll() is None, f"xinetd does not start: {log.read_text()}")
            time.sleep(0.01)

    def stop(self):
        """Ends it. Returns the CPU seconds that it and the programs that it started have used."""
        self.process.terminate()
        _, _, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = 0
        # The programs that outlive it become children of this process, which is the first in its namespace.
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        # A script that was killed has left its lock file.
        SCRIPT_LOCK.unlink(missing_ok=True)
        self.program.unlink()
        return usage.ru_utime + usage.ru_stime

    def ask(self, checks):
        """Makes this many checks at one moment. Returns the answers and the seconds to the last one."""
        begin = last = time.monotonic()
        poll, clients, answers = select.poll(), {}, []
        while len(answers) < checks:
            while len(clients) + len(answers) < checks and self.has_room():
                source = f"10.9.0.{(len(clients) + len(answers)) % 50 + 1}"
                client = socket.create_connection(self.address, source_address=(source, 0))
                client.sendall(REQUEST)
                clients[client.fileno()] = client, bytearray()
                poll.register(client, select.POLLIN)
            # Nothing announces new room in the queue, so look again soon.
            for number, _ in poll.poll(1):
                client, answer = clients[number]
                try:
                    more = client.recv(4096)
                except ConnectionResetError:
                    more = b""
                answer += more
                if not more:
                    last = time.monotonic()
                    poll.unregister(client)
                    client.close()
                    answers.append(bytes(answer))
                    del clients[number]
            check(time.monotonic() - last < 10, f"{self.program.name} gives no answer")
        return answers, last - begin

    def has_room(self):
        """Whether xinetd's queue, of 64, has room for one more connection. When it is full, the kernel
        drops what comes, and TCP sends it again a second later."""
        with open("/proc/net/tcp", "rb", buffering=0) as sockets:
            listener = sockets.read(400).splitlines()[1].split()
        # proc(5): the fourth field is the state, 0A for listening, and the fifth the queues.
        check(listener[3] == b"0A", "xinetd does not listen")
        return int(listener[4].split(b":")[1], 16) < 60


class Listener(Xinetd):
    """cmonhachk itself, which listens."""

    def __init__(self, program, **environment):
        self.program = fresh_copy(program)
        self.address = (f"127.0.1.{next(count) % 250 + 1}", 9201)
        forget()
        command = [self.program, "--listen", f"{self.address[0]}:{self.address[1]}"]
        self.process = subprocess.Popen(
            command, env={**ENVIRONMENT, **environment}, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        patience = time.monotonic() + 10
        while socket.socket().connect_ex(self.address):
            check(time.monotonic() < patience and self.process.poll() is None, "the listener does not start")
            time.sleep(0.01)


LISTENER = "cmonhachk, listening itself"


def load(name):
    """Eight clients that ask without a pause. Returns the right answers a second, the CPU microseconds
    for an answer, and the share of the right answers."""
    seconds = 1 if SHORT else 4
    serve, program = (Listener, "cmonhachk") if name == LISTENER else (Xinetd, name)
    xinetd = serve(PROGRAMS[program], CMONHACHK_MAX_AGE="3600")
    check(xinetd.ask(1)[0] == [LEADER], f"{name} gives no right answer")
    wrk = subprocess.run(
        ["wrk", "-t1", "-c8", f"-d{seconds}", f"http://{xinetd.address[0]}:{xinetd.address[1]}/"],
        capture_output=True,
        text=True,
    ).stdout
    cpu = xinetd.stop()
    answers, span = re.search(r"(\d+) requests in ([\d.]+)s", wrk).groups()
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", wrk)
    wrong = sum(map(int, errors.groups())) if errors else 0
    others = re.search(r"Non-2xx or 3xx responses: (\d+)", wrk)
    right = int(answers) - (int(others[1]) if others else 0)
    # If the script answers wrongly when it is asked twice at once, that is a result. For the others, the
    # measurement is invalid.
    check(name == "script" or (right == int(answers) and wrong == 0), f"{name} under load: {wrk}")
    return right / float(span), cpu * 1e6 / (int(answers) + wrong), right / (int(answers) + wrong)


def measure_load():
    names = [*PROGRAMS, LISTENER]
    taken = {name: [] for name in names}
    for _ in range(1 if SHORT else 5):
        for name in in_random_order(names):
            taken[name].append(load(name))
    rows = []
    for name, figures in taken.items():
        rates, cpu, share = zip(*figures)
        rows.append((
            name,
            f"{statistics.median(rates):.0f}",
            middle(rate / floor[0] for rate, floor in zip(rates, taken["floor"])),
            f"{statistics.median(cpu):.0f}",
            middle((floor[1] / own for own, floor in zip(cpu, taken["floor"]))),
            f"{statistics.median(share):.0%}",
        ))
    table(
        "**A shared verdict, 8 clients**: under xinetd, but for the last row",
        ("program", "right answers/s", "of the floor's", "CPU µs an answer", "the floor's, of that", "right"),
        *rows,
    )


def over_s9s(pairs, *names):
    """The times of s9s alone, and for each program how much more it takes than the s9s beside it."""
    commands = {"s9s": [S9S, "controller", "--list", "--long"]} | {name: [PROGRAMS[name], *FRESH] for name in names}
    taken = {name: [] for name in commands}
    for _ in range(pairs):
        fresh_copy(OUT / "s9s", to=S9S)
        for name in in_random_order(commands):
            program, *arguments = commands[name]
            expected = Path("/run/list").read_bytes() if name == "s9s" else LEADER
            copy = fresh_copy(program)
            taken[name].append(spawn(copy, *arguments, expected=expected))
            copy.unlink()
    alone = taken.pop("s9s")
    over = {
        name: [Spawned(*(mine - its for mine, its in zip(*pair))) for pair in zip(spawned, alone)]
        for name, spawned in taken.items()
    }
    return alone, over


def measure_fresh():
    """Returns the milliseconds that s9s alone takes."""
    alone, over = over_s9s(2 if SHORT else 60, *CMONHACHK, "script")
    rows = []
    for name, pairs in over.items():
        took = [pair.took for pair in pairs]
        rows.append((
            name,
            f"{statistics.median(took):.2f}",
            f"{statistics.quantiles(took, n=10)[8]:.2f}",
            middle(pair.cpu for pair in pairs),
        ))
    took = statistics.median(pair.took for pair in alone)
    table(
        f"**A fresh check, milliseconds over s9s alone, which took {took:.2f}**",
        ("program", "median", "90th percentile", "CPU time"),
        *rows,
    )
    return took


def callgrind(*command):
    """The user-space instructions of a process on a connection, from its start to its end."""
    spawn(*VALGRIND, *command, expected=LEADER)
    return instructions()


def instructions():
    return f"{int(re.search(r'^totals: ([0-9]+)', PROFILE.read_text(), re.MULTILINE)[1]):,}"


def measure_size():
    binary = PROGRAMS["cmonhachk"]
    shared = [binary, *PATIENT, "--max-age", "3600"]
    # How much of a program's file the kernel maps at a time differs from copy to copy.
    memory = {"fresh": [], "shared": []}
    for _ in range(2 if SHORT else 30):
        copy = fresh_copy(binary)
        forget()
        # The second check uses the verdict that the first has published.
        for kind in memory:
            memory[kind].append(spawn(copy, *shared[1:], expected=LEADER).memory)
        copy.unlink()
    times = {name: [] for name in ("floor", "glibc floor", "cmonhachk")}
    for _ in range(2 if SHORT else 100):
        for name in in_random_order(times):
            copy = fresh_copy(PROGRAMS[name])
            command = [copy, *shared[1:]] if name == "cmonhachk" else [copy]
            times[name].append(spawn(*command, expected=LEADER).took)
            copy.unlink()
    micros = {name: f"{statistics.median(took) * 1000:.0f} µs" for name, took in times.items()}
    floor_memory = spawn(OUT / "floor", expected=LEADER).memory
    rows = [("instructions, shared verdict", callgrind(*shared))]
    rows.append(("instructions, fresh check", callgrind(binary, *FRESH)))
    subprocess.run([*VALGRIND, binary, "--version"], env=ENVIRONMENT, capture_output=True, check=True)
    rows.append(("instructions, `--version`", instructions()))
    table(
        "**Start-up and size**",
        ("what", "measured"),
        ("start to answer by itself, shared verdict", micros["cmonhachk"]),
        ("start to answer by itself, floor", micros["floor"]),
        ("start to answer by itself, glibc floor", micros["glibc floor"]),
        *rows,
        ("peak memory, shared verdict", f"{middle(memory['shared'])} MiB"),
        ("peak memory, fresh check", f"{middle(memory['fresh'])} MiB"),
        ("peak memory, floor", f"{floor_memory:.2f} MiB"),
        ("binary", f"{binary.stat().st_size / 1024 ** 2:.2f} MiB"),
    )


def measure_stampede(alone):
    """`alone` is what s9s takes, in milliseconds."""
    rows = []
    for checks, name in itertools.product([1, 10, 50] if SHORT else [1, 10, 50, 400, 1000], PROGRAMS):
        if name == "script" and checks > 50:
            # So many interpreters may need more memory than there is.
            continue
        right, runs, last = [], [], []
        for _ in range(1 if SHORT else 5):
            RUNS.write_text("")
            xinetd = Xinetd(PROGRAMS[name])
            answers, seconds = xinetd.ask(checks)
            xinetd.stop()
            right.append(answers.count(LEADER))
            runs.append(RUNS.stat().st_size)
            last.append(seconds * 1000 - (0 if "floor" in name else alone))
        rows.append((f"{checks:,}", name, middle(right, 0), middle(runs, 0), middle(last, 1)))
    table(
        "**Checks at one moment under xinetd**: until the last answer, in milliseconds over s9s alone;"
        " the floors run no s9s, so nothing is taken off",
        ("checks", "program", "right answers", "runs of s9s", "last answer"),
        *rows,
    )


def measure_growth():
    rows = []
    for controllers, size in [(3, 1024), (30, 1024), (300, 1024), (3000, 1024), (3, 1024**2)]:
        write_list(controllers)
        write_defaults(size)
        _, over = over_s9s(2 if SHORT else 30, "cmonhachk")
        rows.append((
            f"{controllers:,}",
            f"{size // 1024:,} KiB",
            middle(pair.took for pair in over["cmonhachk"]),
            middle(pair.cpu for pair in over["cmonhachk"]),
            callgrind(PROGRAMS["cmonhachk"], *FRESH),
        ))
    table(
        "**Growth of a fresh check**",
        ("controllers", "defaults file", "ms over s9s", "CPU ms over s9s", "instructions"),
        *rows,
    )


def system_calls():
    """Prints the system calls of a shared verdict. The watchdog's thread makes some more."""
    shared = [PROGRAMS["cmonhachk"], *PATIENT, "--max-age", "3600"]
    spawn(*shared, expected=LEADER)
    spawn("/usr/bin/strace", "-o", "/run/strace", *shared, expected=LEADER)
    traced = [line for line in Path("/run/strace").read_text().splitlines() if not line.startswith("+++")]
    print(f"\n**The {len(traced)} system calls of a shared verdict**\n")
    print("".join(f"    {at:2} {line}\n" for at, line in enumerate(traced, 1)), end="")


for path in OTHERS.values():
    check(path.is_file(), f"there is no {path}; the one option is --short")
# For a thousand clients.
DESCRIPTORS, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(DESCRIPTORS, 2048), hard))
write_list(3)
write_defaults(1024)
fresh_copy(OUT / "s9s", to=S9S)
measure_load()
measure_stampede(measure_fresh())
measure_size()
measure_growth()
system_calls()
