//! The image of deploy/container, which podman and docker build and run by the commands of deploy/README.md. Its base is
//! Debian 12's root, and s9s comes from a repository of the test's own.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::built;
use crate::cluster::{
    Cluster, FOLLOWER, GET, LEADER, ask, is_closed, project, receive, simulated_s9s, unknown, wait_until,
};
use crate::documents::joined;
use crate::listener::children;
use crate::versions::root;

/// Where the documents publish the port.
const NODE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 101), 9201);

/// The first process of the host: when its input ends, so does everything that was started there. bash reads the ends
/// of the processes that have lost their parents. What is written to /etc and /root is lost with it.
const FIRST: &str = r#"
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs "$HOST/storage"
    # crun gives the device that a command inherits to the container's user.
    mkdir -m 755 "$HOST/storage/dev" "$HOST/storage/dev/shm"
    cp -a /dev/{null,zero,full,random,urandom,tty,fd} "$HOST/storage/dev"
    mount --bind "$HOST/storage/dev" /dev
    # crun takes no mixture of both versions.
    umount --recursive /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    for folder in etc root; do
        mkdir "$HOST/storage/$folder" "$HOST/storage/$folder.work"
        mount -t overlay -o "lowerdir=/$folder,upperdir=$HOST/storage/$folder,workdir=$HOST/storage/$folder.work" overlay /$folder
    done
    touch "$HOST/ready"
    while read -r _; do :; done"#;

/// For podman: everything that it keeps is in the host's memory.
const STORAGE: &str = r#"
    [storage]
    driver = "overlay"
    graphroot = "STORAGE/graph"
    runroot = "STORAGE/run""#;

/// Control groups are the machine's, so podman makes none. Each container has the simulation.
const CONTAINERS: &str = r#"
    [containers]
    cgroups = "disabled"
    env = ["S9S_SIM=/cluster", "CMONHACHK_TIMEOUT=15"]
    volumes = ["HOST:/cluster"]
    [engine]
    cgroup_manager = "cgroupfs"
    events_logger = "file"
    runtime = "crun"
    static_dir = "STORAGE/static"
    tmp_dir = "STORAGE/tmp"
    volume_path = "STORAGE/volumes"
    [network]
    network_backend = "netavark"
    network_config_dir = "STORAGE/networks""#;

/// A repository in the form of that of s9s-tools, with the simulated client.
const REPOSITORY: &str = r#"
    mkdir -p "$HOST/package/DEBIAN" "$HOST/package/usr/bin" "$HOST/repository"
    cd "$HOST/repository"
    printf '%s\n' 'Package: s9s-tools' 'Version: 1.9' 'Architecture: all' 'Maintainer: The tests <tests@localhost>' \
        'Description: simulated' >"$HOST/package/DEBIAN/control"
    # The genuine client finds no user if it cannot read its configuration.
    sed '2i [ -r "$HOME/.s9s/s9s.conf" ] || HOME=' "$S9S" >"$HOST/package/usr/bin/s9s"
    chmod 755 "$HOST/package/usr/bin/s9s"
    dpkg-deb --root-owner-group --build "$HOST/package" .
    apt-ftparchive packages . >Packages
    apt-ftparchive release . >"$HOST/Release"
    export GNUPGHOME=$HOST/gnupg
    mkdir -m 700 "$GNUPGHOME"
    gpg --batch --quiet --passphrase '' --quick-generate-key tests@localhost default default never
    gpg --armor --export >Release.key
    gpg --clearsign --output InRelease "$HOST/Release"
    python3 -m http.server --bind 127.0.0.1 8000 >"$HOST/requests" 2>&1 &"#;

/// The base has no package lists and no sources, so what is installed comes from that repository.
const BASE: &str = r#"
    tar --directory "$1" --create --exclude './var/cache/apt/*' --exclude './var/lib/apt/lists/*' --exclude ./etc/apt/sources.list . |
        docker import - localhost/base"#;

/// What builds and runs images.
struct Engine {
    /// Run once before all.
    start: &'static str,
    /// What the documents call docker, and the shell function `is_healthy`.
    commands: &'static str,
    /// Run after all.
    end: &'static str,
}

const PODMAN: Engine = Engine {
    start: "",
    // Without systemd, it does not ask by itself.
    commands: r#"
        docker() {
            case $1 in
            build) podman build --format docker "${@:2}" ;;
            compose) podman-compose "${@:2}" ;;
            *) podman "$@" ;;
            esac
        }
        is_healthy() { podman healthcheck run cmonhachk; }
        "#,
    end: "",
};

/// Debian's, with its daemon.
const DOCKER: Engine = Engine {
    start: r#"
        dockerd --data-root "$HOST/storage/docker" --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/${HOST##*/}" \
            </dev/null >"$HOST/dockerd" 2>&1 &
        until docker version >/dev/null 2>&1; do sleep 0.1; done
        printf '%s\n' 'services: {cmonhachk: {volumes: ["HOST:/cluster"], environment: {S9S_SIM: /cluster, CMONHACHK_TIMEOUT: 15}}}' |
            sed "s|HOST|$HOST|" >"$HOST/simulation.yaml""#,
    commands: r#"
        docker() {
            case $1 in
            build) /usr/bin/docker build --network host "${@:2}" ;;
            run) /usr/bin/docker run --volume "$HOST:/cluster" --env S9S_SIM=/cluster --env CMONHACHK_TIMEOUT=15 "${@:2}" ;;
            compose) docker-compose "${@:2:2}" --file "$HOST/simulation.yaml" "${@:4}" ;;
            *) /usr/bin/docker "$@" ;;
            esac
        }
        is_healthy() {
            [ "$(docker inspect --format '{{.State.Health.Status}} {{.State.Health.FailingStreak}}' cmonhachk)" = 'healthy 0' ]
        }
        "#,
    end: r#"rmdir "/sys/fs/cgroup/${HOST##*/}""#,
};

/// A host with an engine, in the test's network.
struct Host {
    engine: Engine,
    cluster: Cluster,
    first: Child,
}

impl Host {
    fn with(engine: Engine) -> Host {
        let cluster = Cluster::new();
        let folder = cluster.folder.path();
        // The user of the container reads the simulation there.
        fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
        let storage = cluster.folder.join("storage");
        fs::create_dir(&storage).unwrap();
        let place = |text: &str| {
            let text = text.replace("STORAGE", storage.to_str().unwrap());
            text.replace("HOST", folder.to_str().unwrap())
        };
        cluster.folder.write("storage.conf", place(STORAGE));
        cluster.folder.write("containers.conf", place(CONTAINERS));
        let mut first = Command::new("unshare");
        first.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        first.args(["bash", "-euc", FIRST]).env("HOST", folder);
        let first = first.stdin(Stdio::piped()).spawn().unwrap();
        let host = Host { engine, cluster, first };
        wait_until("the host is there", || host.cluster.folder.join("ready").exists());
        host.run(host.engine.start);
        host
    }

    /// What a shell command does there.
    fn output(&self, command: &str) -> Output {
        let folder = &self.cluster.folder;
        let first = children(self.first.id())[0].to_string();
        let mut shell = Command::new("nsenter");
        shell.args(["--target", &first, "--mount", "--pid"]);
        shell
            .arg(format!("--wd={}", project().display()))
            .args(["bash", "-euc"]);
        shell.arg(format!("exec </dev/null\n{}{command}", self.engine.commands));
        shell.stdin(Stdio::null());
        shell.env("HOST", folder.path()).env("S9S", simulated_s9s());
        shell.env("CONTAINERS_CONF", folder.join("containers.conf"));
        shell.env("CONTAINERS_STORAGE_CONF", folder.join("storage.conf"));
        // There is no systemd for the timers of HEALTHCHECK, and no control group for a build.
        shell
            .env("DISABLE_HC_SYSTEMD", "true")
            .env("BUILDAH_ISOLATION", "chroot");
        shell.output().unwrap()
    }

    /// The output of a command, which must succeed.
    fn run(&self, command: &str) -> String {
        let output = self.output(command);
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{command}: {said}");
        said
    }

    fn builds_the_image(&self) {
        self.run(REPOSITORY);
        self.run(&format!("set -- {}\n{BASE}", root("bookworm").display()));
        let local = "--build-arg BASE=localhost/base --build-arg S9S_KEY=http://127.0.0.1:8000/Release.key \
            --build-arg S9S_REPOSITORY=http://127.0.0.1:8000/";
        let build = documented("docker build");
        self.run(&build.replace("docker build", &format!("docker build {local}")));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It closes its input, too.
        let _ = self.first.wait();
    }
}

/// The command of the section "In a container" that begins like this: a line of its own, or quoted in the text.
fn documented(start: &str) -> String {
    let document = fs::read_to_string(project().join("deploy/README.md")).unwrap();
    let (_, section) = document.split_once("\n## In a container\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let lines = joined(section);
    let mut commands = lines.lines().filter_map(|line| line.strip_prefix("    "));
    let mut quoted = section.split('`').skip(1).step_by(2);
    let is_it = |command: &&str| command.starts_with(start);
    let command = commands.find(is_it).or_else(|| quoted.find(is_it));
    command
        .unwrap_or_else(|| panic!("no command begins with {start}"))
        .to_string()
}

fn get() -> String {
    receive(&mut ask(NODE, GET))
}

#[test]
fn podman_builds_and_runs_the_image_by_the_documents() {
    is_built_and_run_by(PODMAN);
}

mod nightly {
    #[test]
    fn docker_builds_and_runs_the_image_by_the_documents() {
        super::is_built_and_run_by(super::DOCKER);
    }
}

fn is_built_and_run_by(engine: Engine) {
    built::packages();
    let host = Host::with(engine);
    eprintln!("{}", host.run("docker --version"));
    host.builds_the_image();
    host.run("mkdir /root/.s9s; touch /root/.s9s/s9s.conf /root/.s9s/cmonhachk.key");
    host.run(&documented("install -d"));
    host.run(&documented("install -o"));

    host.run(&documented("docker run"));
    answers_as_a_node(&host);
    is_in_maintenance_while_the_file_is_there(&host);
    shows_what_an_operator_asks(&host);
    is_healthy_while_the_role_is_known(&host);
    runs_s9s_once_for_30_clients(&host);
    answers_those_in_flight_when_it_is_stopped(&host);
    answers_after_a_start(&host);
    host.run("docker rm --force cmonhachk");

    let up = documented("NODE=10.0.0.101 docker compose");
    host.run(&up);
    answers_as_a_node(&host);
    shows_what_an_operator_asks(&host);
    host.run(&up.replace("up --detach", "down"));
    assert_eq!(host.run("docker ps --all --quiet"), "");
    assert_eq!(host.run("stat --format %U /dev/null"), "root\n");
    host.run(host.engine.end);
}

fn is_served() {
    wait_until("the port is served", || TcpStream::connect(NODE).is_ok());
}

fn answers_as_a_node(host: &Host) {
    is_served();
    host.cluster.leads("10.0.0.101");
    wait_until("the node leads", || get() == LEADER);
    host.cluster.leads("10.0.0.102");
    wait_until("the node follows", || get() == FOLLOWER);
    assert!(
        host.run("curl -si http://10.0.0.101:9201/health")
            .starts_with("HTTP/1.1 200 OK")
    );
}

fn is_in_maintenance_while_the_file_is_there(host: &Host) {
    host.run(&documented("touch /etc/cmonhachk/maintenance"));
    wait_until("it is in maintenance", || get() == unknown("maintenance"));
    host.run("rm /etc/cmonhachk/maintenance");
    wait_until("it is not any more", || get() == FOLLOWER);
}

fn shows_what_an_operator_asks(host: &Host) {
    let said = host.output(&documented("docker exec"));
    assert_eq!(said.status.code(), Some(1));
    let said = String::from_utf8(said.stdout).unwrap();
    for line in ["  cached: follower, ", "  verdict: follower\n", "HAProxy is told 503"] {
        assert!(said.contains(line), "{said}");
    }
    let log = host.run(&format!("{} 2>&1", documented("docker logs")));
    for line in [
        " listens on 0.0.0.0:9201\n",
        "]: none -> leader: l ",
        "]: leader -> follower: f ",
    ] {
        assert!(log.contains(line), "{log}");
    }
}

fn answers_after_a_start(host: &Host) {
    host.cluster.behaves("list");
    for command in ["start", "restart"] {
        let start = Instant::now();
        host.run(&format!("docker {command} cmonhachk"));
        is_served();
        assert_eq!(get(), FOLLOWER);
        eprintln!("{command}: {:?} until the answer", start.elapsed());
    }
}

fn is_healthy_while_the_role_is_known(host: &Host) {
    let is_healthy = || host.output("is_healthy").status.success();
    wait_until("a follower is healthy", is_healthy);
    host.cluster.behaves("connection-refused");
    wait_until("the role is unknown", || get() == unknown("s9s-no-connection"));
    wait_until("it is not healthy", || !is_healthy());
    host.cluster.behaves("list");
    wait_until("the role is known", || get() == FOLLOWER);
    wait_until("it is healthy again", is_healthy);
}

/// Asks while s9s does not answer. The verdict before is used for a while.
fn asks_in_vain(host: &Host, clients: usize) -> Vec<TcpStream> {
    let _ = fs::remove_file(host.cluster.folder.join("gate"));
    host.cluster.behaves("gate");
    let runs = host.cluster.runs();
    let mut first = ask(NODE, GET);
    wait_until("s9s runs", || {
        if is_closed(&first) {
            first = ask(NODE, GET);
        }
        host.cluster.runs() > runs
    });
    (1..clients).map(|_| ask(NODE, GET)).chain([first]).collect()
}

fn runs_s9s_once_for_30_clients(host: &Host) {
    let runs = host.cluster.runs();
    let clients = asks_in_vain(host, 30);
    host.cluster.open_gate();
    for mut client in clients {
        assert_eq!(receive(&mut client), FOLLOWER);
    }
    assert_eq!(host.cluster.runs(), runs + 1);
}

fn answers_those_in_flight_when_it_is_stopped(host: &Host) {
    let mut clients = asks_in_vain(host, 10);
    thread::scope(|scope| {
        let stop = scope.spawn(|| host.run("docker stop cmonhachk"));
        wait_until("nobody else is accepted", || TcpStream::connect(NODE).is_err());
        let start = Instant::now();
        host.cluster.open_gate();
        for client in &mut clients {
            assert_eq!(receive(client), FOLLOWER);
        }
        drop(clients);
        stop.join().unwrap();
        let took = start.elapsed();
        eprintln!("the stop took {took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    });
    let status = host.run("docker inspect --format '{{.State.Status}} {{.State.ExitCode}}' cmonhachk");
    assert_eq!(status, "exited 0\n");
}
