//! Booted systems install from the repositories of `deploy/release.sh`, by http, and refuse what was changed.

use std::env::consts::ARCH;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cluster::{Daemon, Folder, enter_network, project, wait_until};
use crate::node::{Node, make_package};
use crate::packages::commands;

/// Where tests/release.sh says that the releases are: an address of each booted system.
const URL: &str = "http://10.0.0.101:8000/cmonhachk";

const THIS: &str = env!("CARGO_PKG_VERSION");
const NEXT: &str = "9.9.9";

/// A release of tests/release.sh, which makes them if need be.
fn release(name: &str) -> PathBuf {
    let made = Command::new(project().join("tests/release.sh")).status().unwrap();
    assert!(made.success(), "no release");
    project().join("target/releases").join(name)
}

/// A program in a node's network, or in this test's.
fn in_network(node: Option<&Node>, program: &str) -> Command {
    let Some(node) = node else {
        enter_network();
        return Command::new(program);
    };
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", node.systemd.first_process().unwrap()));
    command.arg(program);
    command
}

/// A web server. Its folder has a link to the release that is there now.
struct Server {
    folder: Folder,
    _python: Daemon,
}

impl Server {
    fn start(node: Option<&Node>) -> Server {
        let folder = Folder::new();
        let mut python = in_network(node, "python3");
        python.args(["-m", "http.server", "8000", "--bind", "10.0.0.101", "--directory"]);
        python.arg(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let python = Daemon(python.spawn().unwrap());
        wait_until("the web server answers", || {
            let mut curl = in_network(node, "curl");
            let output = curl.args(["--silent", "--fail", "http://10.0.0.101:8000/"]).output();
            output.unwrap().status.success()
        });
        Server {
            folder,
            _python: python,
        }
    }

    /// From now on, this is what the server has, as deploy/README.md says.
    fn has(&self, release: &Path) {
        let _ = fs::remove_file(self.folder.join("next"));
        symlink(release, self.folder.join("next")).unwrap();
        fs::rename(self.folder.join("next"), self.folder.join("cmonhachk")).unwrap();
    }

    /// From now on, the server has this release with another byte in the middle of one file.
    fn has_changed(&self, release: &Path, file: &str) -> PathBuf {
        let copy = self.folder.join(&format!("changed-{}", file.replace('/', "-")));
        let _ = fs::remove_dir_all(&copy);
        let copied = Command::new("cp").arg("-a").args([release, &copy]).status().unwrap();
        assert!(copied.success());
        let path = copy.join(file);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
        self.has(&copy);
        copy
    }
}

/// The commands of the page for users, which need nobody who answers.
fn of_page(release: &Path, id: &str) -> String {
    let page = fs::read_to_string(release.join("index.html")).unwrap();
    let (_, text) = page.split_once(&format!("<pre id=\"{id}\">\n")).unwrap();
    without_questions(text.split_once("</pre>").unwrap().0)
}

fn without_questions(commands: &str) -> String {
    let line = |line: &str| match line.split_once(' ') {
        Some((program @ ("apt" | "dnf"), words)) => format!("{program} --assume-yes {words}\n"),
        _ => format!("{line}\n"),
    };
    let lines: String = commands.lines().map(line).collect();
    format!(
        "set -e; export DEBIAN_FRONTEND=noninteractive\n{}",
        lines.replace("dnf --assume-yes", "dnf --assumeyes")
    )
}

/// What README.md says, for the packages that the node can get.
fn of_readme() -> String {
    let key = commands("URL=https://HOST/cmonhachk").replace("https://HOST/cmonhachk", URL);
    // No gpg is on the nodes.
    let key = key.replace("gpg --show-keys ", "test -s ");
    let packages = commands("printf '%s\\n' 'Types: deb'");
    assert!(
        packages.contains("apt install cmonhachk haproxy keepalived curl iproute2"),
        "{packages}"
    );
    let packages = packages.replace(" haproxy keepalived curl iproute2", "");
    without_questions(&format!("{key}\n{packages}"))
}

/// What commands print that must fail.
fn fails(node: &Node, commands: &str) -> String {
    let output = node.systemd.output(commands);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{commands}: {said}");
    said
}

/// Both programs run that this version installed, and the listener answers.
fn works(node: &Node, version: &str) {
    node.leads();
    let line = format!("cmonhachk {version}\n");
    for program in ["cmonhachk", "cmonhachk-front"] {
        assert_eq!(node.run(&format!("{program} --version")), line);
    }
    node.answers_from_the_installed_program();
    node.leads();
}

/// Upgrades to a release that has the older packages, too, or not.
fn apt_installs_upgrades_and_refuses_what_was_changed(suite: &str, install: &str, next: &Path, bad_signature: &str) {
    let this = release("this");
    let node = Node::boot(suite);
    // No other repository is in reach.
    node.run("rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*");
    let server = Server::start(Some(&node));
    let version = || node.run("dpkg-query --show --showformat '${Version}' cmonhachk");

    server.has_changed(&this, "apt/dists/stable/InRelease");
    let said = fails(&node, install);
    assert!(
        said.contains(bad_signature) && said.contains("is not signed"),
        "{suite}: {said}"
    );
    let changed = server.has_changed(&this, "apt/dists/stable/Release");
    fs::remove_file(changed.join("apt/dists/stable/InRelease")).unwrap();
    let said = fails(&node, install);
    assert!(
        said.contains(bad_signature) && said.contains("is not signed"),
        "{suite}: {said}"
    );
    let deb = format!(
        "apt/pool/cmonhachk_{THIS}_{}.deb",
        node.run("dpkg --print-architecture").trim()
    );
    server.has_changed(&this, &deb);
    let said = fails(&node, install);
    assert!(said.contains("Hash Sum mismatch"), "{suite}: {said}");
    assert!(!node.has("/usr/sbin/cmonhachk"));

    server.has(&this);
    node.run(install);
    assert_eq!(version(), THIS);
    assert_eq!(node.run("dpkg --verify cmonhachk"), "");
    works(&node, THIS);

    let upgrade = of_page(&this, "apt-upgrade");
    server.has_changed(next, "apt/dists/stable/InRelease");
    let said = node.run(&upgrade);
    assert!(
        said.contains(bad_signature) && said.contains("previous index files will be used"),
        "{suite}: {said}"
    );
    assert_eq!(version(), THIS);
    server.has(next);
    // On one of the systems, by the page.
    match suite {
        "bookworm" => node.run(&upgrade),
        _ => node.run("apt update && DEBIAN_FRONTEND=noninteractive apt --assume-yes upgrade"),
    };
    assert_eq!(version(), NEXT);
    works(&node, NEXT);

    let former = node
        .systemd
        .output(&format!("apt --assume-yes --allow-downgrades install cmonhachk={THIS}"));
    assert_eq!(former.status.success(), next.ends_with("next"), "{suite}: {former:?}");
}

#[test]
fn apt_installs_upgrades_and_refuses_what_was_changed_on_debian_12() {
    apt_installs_upgrades_and_refuses_what_was_changed(
        "bookworm",
        &of_page(&release("this"), "apt"),
        &release("next"),
        "BADSIG",
    );
}

#[test]
fn apt_installs_upgrades_and_refuses_what_was_changed_on_debian_11() {
    apt_installs_upgrades_and_refuses_what_was_changed("bullseye", &of_readme(), &release("next"), "BADSIG");
}

#[test]
fn apt_installs_upgrades_and_refuses_what_was_changed_on_debian_13() {
    apt_installs_upgrades_and_refuses_what_was_changed(
        "trixie",
        &of_readme(),
        &release("alone"),
        "Message has been manipulated",
    );
}

#[test]
fn dnf_installs_upgrades_and_refuses_what_was_changed() {
    let (this, next) = (release("this"), release("next"));
    let node = Node::boot("trixie-rpm");
    // Remove what makes this a Debian to the scripts. dpkg has installed what the packages need.
    node.run("rm /usr/bin/deb-systemd-* /usr/sbin/invoke-rc.d; mkdir /etc/yum.repos.d");
    node.write(
        "/opt/stand-in.yaml",
        "{name: stand-in, arch: all, version: 1.0.0, provides: [systemd]}",
    );
    make_package(
        &node.systemd,
        &node.systemd.root().join("opt/stand-in.yaml"),
        "rpm",
        &[],
    );
    node.run("rpm --install /opt/stand-in-*.rpm");
    let server = Server::start(Some(&node));
    let install = of_page(&this, "dnf");
    let version = || node.run("rpm --query --queryformat '%{version}' cmonhachk");
    let rpm = format!("dnf/cmonhachk-{THIS}-1.{ARCH}.rpm");

    server.has_changed(&this, "dnf/repodata/repomd.xml");
    let said = fails(&node, &install);
    assert!(said.contains("repomd.xml GPG signature verification error"), "{said}");
    server.has_changed(&this, &rpm);
    let said = fails(&node, &install);
    assert!(said.contains("checksum doesn't match"), "{said}");
    let changed = server.has_changed(&this, "dnf/repodata/repomd.xml");
    // A package that nobody has signed, in a list that was made for it, if the list's signature does not matter.
    let script = "rpmsign --delsign \"$1\"/*.rpm && createrepo_c --quiet --no-database \"$1\"";
    let made = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(changed.join("dnf"))
        .status();
    assert!(made.unwrap().success());
    let without = install.replace(
        "install cmonhachk",
        "--setopt cmonhachk.repo_gpgcheck=0 install cmonhachk",
    );
    let said = fails(&node, &format!("dnf clean all\n{without}"));
    assert!(said.contains("GPG check FAILED"), "{said}");
    assert!(!node.has("/usr/sbin/cmonhachk"));

    server.has(&this);
    node.run("dnf clean all");
    node.run(&install);
    assert_eq!(version(), THIS);
    assert_eq!(node.run("rpm --verify cmonhachk"), "");
    works(&node, THIS);
    server.has(&next);
    node.run(&of_page(&this, "dnf-upgrade"));
    assert_eq!(version(), NEXT);
    works(&node, NEXT);
    node.run("dnf --assumeyes downgrade cmonhachk");
    assert_eq!(version(), THIS);
}

#[test]
fn a_single_file_is_checked_as_the_page_says() {
    let this = release("this");
    let server = Server::start(None);
    server.has(&this);
    let folder = Folder::new();
    let fetch = |file: &str| {
        let copied = Command::new("cp")
            .arg(this.join(file))
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(copied.success());
    };
    fetch(&format!("apt/pool/cmonhachk_{THIS}_amd64.deb"));
    fetch(&format!("dnf/cmonhachk-{THIS}-1.x86_64.rpm"));
    let run = || {
        let mut bash = in_network(None, "bash");
        bash.args(["-c", &of_page(&this, "files")]).current_dir(folder.path());
        bash.env("GNUPGHOME", folder.path()).output().unwrap()
    };
    let output = run();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(said.matches(": OK\n").count(), 3, "the key, too: {said}");
    let page = fs::read_to_string(this.join("index.html")).unwrap();
    let fingerprint = page.split("the key <code>").nth(1).unwrap().split('<').next().unwrap();
    assert!(said.contains(fingerprint), "{said}");

    folder.write(&format!("cmonhachk_{THIS}_amd64.deb"), "another");
    let output = run();
    assert!(!output.status.success(), "{output:?}");
}

/// The same packages, but for the time of an .rpm's signature.
#[test]
fn two_releases_of_one_version_have_the_same_packages() {
    let folder = Folder::new();
    let sums = |name: &str| {
        let script = format!(
            "cd \"$1\"; cp \"$2\"/apt/pool/*{NEXT}* \"$2\"/dnf/*{NEXT}*.rpm .; rpmsign --delsign *.rpm >/dev/null 2>&1; sha256sum *"
        );
        let mut bash = Command::new("bash");
        bash.args(["-euc", &script, "bash"])
            .arg(folder.path())
            .arg(release(name));
        let output = bash.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let first = sums("next");
    assert_eq!(first.lines().count(), 6, "{first}");
    assert_eq!(sums("alone"), first);
}

/// By the library that CycloneDX has for Python, with the standard's schema.
const VALIDATE: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
sys.exit(JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read()))
";

#[test]
fn what_is_linked_in_is_listed_as_the_standard_says_and_as_the_notices_do() {
    let list = release("this").join(format!("cmonhachk-{THIS}.cdx.json"));
    let tool = project().join("target/tools/cyclonedx-11.12.0");
    if !tool.exists() {
        let draft = tool.with_extension("draft");
        let mut pip = Command::new("pip3");
        pip.args([
            "install",
            "--quiet",
            "cyclonedx-python-lib[json-validation]==11.12.0",
            "--target",
        ]);
        assert!(pip.arg(&draft).status().unwrap().success());
        fs::rename(draft, &tool).unwrap();
    }
    let validated = |file: &Path| {
        let mut python = Command::new("python3");
        python.args(["-c", VALIDATE]).arg(file).env("PYTHONPATH", &tool);
        python.output().unwrap()
    };
    let output = validated(&list);
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(&list).unwrap();
    let folder = Folder::new();
    let wrong = folder.write("wrong", text.replace("SHA-256", "SHA-257"));
    assert!(!validated(&wrong).status.success());

    let notices = fs::read_to_string(project().join("deploy/package/notices")).unwrap();
    let table = notices.split("package | licence | copyright\n").nth(1).unwrap();
    let rows = table.lines().take_while(|line| !line.is_empty());
    let mut names: Vec<&str> = rows.map(|row| row.split(' ').next().unwrap()).collect();
    names.extend(["musl", "rust-std"]);
    names.sort_unstable();
    let components = text.split("\"components\"").nth(1).unwrap();
    let listed = components
        .lines()
        .filter_map(|line| line.strip_prefix("      \"name\": \""));
    let listed: Vec<&str> = listed.map(|line| line.trim_end_matches("\",")).collect();
    assert_eq!(listed, names);
    let lock = fs::read_to_string(project().join("Cargo.lock")).unwrap();
    let sums = components
        .lines()
        .filter_map(|line| line.trim().strip_prefix("\"content\": "));
    let sums: Vec<&str> = sums.collect();
    assert_eq!(sums.len(), names.len() - 2);
    assert!(
        sums.iter().all(|sum| lock.contains(&format!("checksum = {sum}\n"))),
        "{sums:?}"
    );
    for private in [project().to_str().unwrap(), "registry", ".cargo"] {
        assert!(!text.contains(private), "{private}");
    }
}
