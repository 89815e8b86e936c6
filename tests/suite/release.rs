//! `deploy/release.sh` and `deploy/package.sh`, in small checkouts with programs that do nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use crate::built;
use crate::cluster::{Folder, project};
use crate::packages::commands;

mod nightly;

const MANIFEST: &str = "[package]
name = \"cmonhachk\"
version = \"1.0.0\"
edition = \"2024\"
license = \"MIT\"

[[bin]]
name = \"cmonhachk\"
path = \"src/main.rs\"

[[bin]]
name = \"cmonhachk-front\"
path = \"src/main.rs\"

[[bin]]
name = \"cmonhachk-leads\"
path = \"src/main.rs\"
";

const URL: &str = "https://packages.localdomain/cmonhachk";

/// A checkout of version 1.0.0, which is released, and GnuPG's folder with a key.
struct Checkout {
    folder: Folder,
}

impl Checkout {
    fn new() -> Checkout {
        // deploy/package.sh has fetched its tool.
        built::packages();
        let checkout = Checkout { folder: Folder::new() };
        for folder in ["src", "tests", "gnupg"] {
            fs::create_dir_all(checkout.path(folder)).unwrap();
        }
        fs::set_permissions(checkout.path("gnupg"), fs::Permissions::from_mode(0o700)).unwrap();
        checkout.shell(
            "cp -a \"$1/deploy\" \"$1/README.md\" \"$1/LICENSE\" .; cp \"$1/tests/packages.sh\" tests; mkdir target; \
             ln -s \"$1/target/tools\" target/tools",
        );
        checkout.write(".gitignore", "/target\n/gnupg\n");
        checkout.write("Cargo.toml", MANIFEST);
        checkout.write(
            "Cargo.lock",
            "version = 4\n\n[[package]]\nname = \"cmonhachk\"\nversion = \"1.0.0\"\n",
        );
        checkout.write("src/main.rs", "fn main() {}\n");
        checkout.changelog("1.0.0", "stable");
        checkout.shell("git init --quiet");
        checkout.commit();
        checkout.new_key("signer@localhost");
        checkout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        self.folder.write(name, text);
    }

    fn changelog(&self, version: &str, state: &str) {
        let date = "Tue, 01 Dec 2026 12:00:00 +0000";
        let entry = format!("cmonhachk ({version}) {state}; urgency=medium\n\n  * A.\n\n -- N <n@localhost>  {date}\n");
        self.write("deploy/package/changelog", &entry);
    }

    fn commit(&self) {
        self.shell("git add --all; git -c user.name=n -c user.email=n@localhost commit --quiet --message 'A change'");
    }

    fn next_version(&self) {
        self.changelog("1.1.0", "stable");
        self.shell("sed -i s/1.0.0/1.1.0/ Cargo.toml Cargo.lock");
        self.commit();
    }

    fn new_key(&self, name: &str) {
        self.shell(&format!(
            "gpg --batch --quiet --passphrase '' --quick-generate-key {name} ed25519 sign never"
        ));
    }

    /// A command that knows no other history, key or settings of the one who runs the tests.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path());
        command.env("GIT_CEILING_DIRECTORIES", self.folder.path().parent().unwrap());
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env_remove("GIT_DIR");
        command.env("GNUPGHOME", self.path("gnupg"));
        command
    }

    /// What a shell prints; its `$1` is the project.
    fn shell(&self, script: &str) -> String {
        let mut shell = self.command("bash");
        let output = shell.args(["-euc", script, "bash"]).arg(project()).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn release(&self, arguments: &str) -> Output {
        self.command("deploy/release.sh")
            .args(arguments.split_whitespace())
            .output()
            .unwrap()
    }

    fn is_released(&self, arguments: &str) -> String {
        let output = self.release(arguments);
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        said
    }

    fn is_refused(&self, arguments: &str, saying: &str) {
        let output = self.release(arguments);
        let said = said(&output);
        assert!(
            !output.status.success() && said.contains(saying),
            "not {saying}: {said}"
        );
        assert!(!self.path("target/new").exists(), "{saying}");
        let left = self.shell("compgen -G 'target/new.*' || true");
        assert_eq!(left, "", "{saying}");
    }

    /// The sums of the packages, without the signature in an .rpm.
    fn sums(&self, release: &str) -> String {
        self.shell(&format!(
            "rm -rf target/unsigned; mkdir target/unsigned; cp target/{release}/apt/pool/* target/{release}/dnf/*.rpm target/unsigned
             cd target/unsigned; rpmsign --delsign *.rpm >/dev/null 2>&1; sha256sum *"
        ))
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let _ = self.command("gpgconf").args(["--kill", "all"]).status();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn with(further: &str) -> String {
    format!("--key signer@localhost --url {URL} {further}")
}

/// All files below a folder, one a line.
fn files(folder: &Path) -> String {
    let mut find = Command::new("find");
    let output = find
        .arg(folder)
        .args(["-type", "f", "-printf", "%P\n"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn what_is_missing_or_wrong_on_the_command_line_is_named() {
    let checkout = Checkout::new();
    let new = "target/new";
    checkout.is_refused("", "usage: deploy/release.sh --key KEY --url URL [--former OLD] FOLDER");
    checkout.is_refused(&with(""), "usage");
    checkout.is_refused(&with("--unsigned target/new"), "usage");
    checkout.is_refused(&with("target/new target/newer"), "usage");
    checkout.is_refused("target/new --key", "usage");

    checkout.is_refused(
        &format!("--url {URL} {new}"),
        "please name a key by --key: apt and dnf install only what is signed. gpg --list-secret-keys has yours",
    );
    checkout.is_refused(
        &with("--key other@localhost target/new"),
        "has no secret key other@localhost",
    );
    checkout.is_refused(
        "--key signer@localhost target/new",
        "please say by --url where users will find the folder",
    );
    for url in ["packages.localdomain", "ftp://host", "https://host/a|b", "https://"] {
        checkout.is_refused(&with(&format!("--url {url} {new}")), "no address of a web server");
    }
    for url in [
        "https://packages.example.com/x",
        "http://example.org:80",
        "http://a.invalid",
    ] {
        checkout.is_refused(&with(&format!("--url {url} {new}")), "this is an example");
    }

    checkout.is_refused(&with("target/none/new"), "there is no folder ");
    checkout.is_refused(&with("LICENSE"), "LICENSE is no folder");
    checkout.is_refused(&with("new"), "new is among the sources");
    fs::create_dir(checkout.path("target/full")).unwrap();
    checkout.write("target/full/own", "an operator's");
    checkout.is_refused(&with("target/full"), "full is not empty");
    assert_eq!(files(&checkout.path("target/full")), "own");
    checkout.is_refused(&with("--former target/full target/new"), "there is no release in ");

    checkout.shell(
        "gpg --batch --quiet --faked-system-time 20200101T000000 --passphrase '' --quick-generate-key old@localhost ed25519 sign 1y",
    );
    checkout.is_refused(
        &with("--key old@localhost target/new"),
        "GnuPG cannot sign with the key ",
    );
    checkout.new_key("'Another <signer@localhost>'");
    checkout.is_refused(
        &with("target/new"),
        "more than one key is named signer@localhost, so give one of these: ",
    );
}

#[test]
fn a_checkout_is_refused_whose_version_changelog_and_state_do_not_agree() {
    let checkout = Checkout::new();
    let refused = |saying: &str| checkout.is_refused(&with("target/new"), saying);

    checkout.changelog("1.0.1", "stable");
    checkout.commit();
    refused("Cargo.toml says 1.0.0, and deploy/package/changelog begins with: cmonhachk (1.0.1) stable;");
    checkout.changelog("1.0.0", "UNRELEASED");
    checkout.commit();
    refused("version 1.0.0 is not released: write stable and the date");
    checkout.changelog("1.0.0", "stable");
    refused("are not as in git; commit or remove them:\n M deploy/package/changelog\n");
    checkout.commit();

    checkout.write("src/new.rs", "");
    refused("remove them:\n?? src/new.rs\n");
    checkout.commit();
    refused("version 1.0.0 is released (");
    refused("src/new.rs\nBegin a new entry");
    checkout.shell("git rm --quiet src/new.rs");
    refused("remove them:\nD  src/new.rs\n");
    checkout.commit();

    checkout.shell(
        "git clone --quiet --depth 1 \"file://$PWD\" target/shallow; mv .git target/whole; mv target/shallow/.git .",
    );
    refused("the history is not whole: run git fetch --unshallow");
    checkout.shell("rm -rf .git");
    refused("git cannot say what the release is made from");
    checkout.shell("mv target/whole .git; mkdir below; git mv Cargo.* LICENSE README.md deploy src tests below; mv target below; echo target >below/.gitignore");
    checkout.commit();
    let mut inner = checkout.command("below/deploy/release.sh");
    let output = inner
        .args(with("below/target/new").split_whitespace())
        .output()
        .unwrap();
    assert!(
        !output.status.success() && said(&output).contains("below is no checkout of its own, but a part of"),
        "{output:?}"
    );
}

/// A toolchain that has one target of the two, and cannot get another.
#[test]
fn a_toolchain_for_one_processor_makes_no_smaller_release() {
    let checkout = Checkout::new();
    let toolchain = checkout.path("target/toolchain");
    fs::create_dir_all(toolchain.join("lib/rustlib/x86_64-unknown-linux-musl/lib")).unwrap();
    checkout.write(
        "target/toolchain/rustc",
        &format!("#!/bin/sh\necho {}\n", toolchain.display()),
    );
    checkout.write("target/toolchain/rustup", "#!/bin/sh\nexit 1\n");
    checkout.shell("chmod 755 target/toolchain/rust*");
    let path = format!("{}:{}", toolchain.display(), std::env::var("PATH").unwrap());
    let mut release = checkout.command("deploy/release.sh");
    let output = release
        .args(with("target/new").split_whitespace())
        .env("PATH", path)
        .output()
        .unwrap();
    let why = "no target aarch64-unknown-linux-musl, and rustup cannot install it: a release is for both processors";
    assert!(!output.status.success() && said(&output).contains(why), "{output:?}");
    assert!(!checkout.path("target/new").exists());
}

/// The files of a release of this version.
fn expected(version: &str) -> String {
    format!(
        "apt/pool/cmonhachk-xinetd_{version}_all.deb\napt/pool/cmonhachk_{version}_amd64.deb\n\
         apt/pool/cmonhachk_{version}_arm64.deb\ncmonhachk-{version}.cdx.json\n\
         dnf/cmonhachk-{version}-1.aarch64.rpm\ndnf/cmonhachk-{version}-1.x86_64.rpm\n\
         dnf/cmonhachk-xinetd-{version}-1.noarch.rpm"
    )
}

#[test]
fn a_release_is_whole_or_not_there_and_two_have_the_same_packages() {
    let checkout = Checkout::new();
    let new = with("target/new");

    // A build leaves a file among the sources.
    let script = "fn main() { std::fs::write(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/src/left\"), \"\").unwrap(); }\n";
    checkout.write("build.rs", script);
    checkout.commit();
    checkout.is_refused(&new, "remove them:\n?? src/left\n");
    // During a build, somebody commits.
    let script = "fn main() { assert!(std::process::Command::new(\"sh\").args([\"-c\", \"git -c user.name=a \
        -c user.email=a@localhost commit --quiet --allow-empty --message another\"]).status().unwrap().success()); }\n";
    checkout.write("build.rs", script);
    checkout.shell("rm src/left");
    checkout.commit();
    checkout.is_refused(&new, "the checkout has another commit than before the build, ");
    checkout.shell("git rm --quiet build.rs");
    checkout.commit();
    // A build fails.
    checkout.write("src/main.rs", "fn main() { nothing }\n");
    checkout.changelog("1.0.0", "stable ");
    checkout.commit();
    checkout.changelog("1.0.0", "stable");
    checkout.commit();
    checkout.is_refused(&new, "Made no release: ");
    checkout.write("src/main.rs", "fn main() {}\n");
    checkout.changelog("1.0.0", "stable ");
    checkout.commit();
    checkout.changelog("1.0.0", "stable");
    checkout.commit();

    fs::create_dir(checkout.path("target/first")).unwrap();
    let told = checkout.is_released(&with("target/first"));
    assert!(
        told.contains(&format!("first, for {URL}. Its index.html has the commands.")),
        "{told}"
    );
    let first = checkout.path("target/first");
    let all = files(&first);
    for file in expected("1.0.0").lines() {
        assert!(all.lines().any(|other| other == file), "{file}: {all}");
    }
    let index = fs::read_to_string(first.join("index.html")).unwrap();
    for link in index.split("href=\"").skip(1) {
        let file = link.split('"').next().unwrap();
        assert!(first.join(file).exists(), "{file}");
    }
    assert!(index.contains(URL) && !index.contains('@'), "{index}");
    let closed = checkout.shell("find target/first ! -perm -o+r; find target/first -type d ! -perm -o+x");
    assert_eq!(closed, "", "a web server can read all");

    checkout.is_released(&with("target/second"));
    assert_eq!(checkout.sums("first"), checkout.sums("second"));
}

#[test]
fn the_former_releases_packages_are_in_the_next_one_if_they_are_as_they_were_signed() {
    let checkout = Checkout::new();
    checkout.is_released(&with("target/first"));
    let next = with("--former target/first target/new");
    checkout.is_refused(&next, "first has version 1.0.0 already");

    checkout.next_version();
    checkout.new_key("other@localhost");
    checkout.is_refused(
        &next.replace("signer", "other"),
        "SHA256SUMS is not signed with the key ",
    );
    let deb = "target/first/apt/pool/cmonhachk_1.0.0_arm64.deb";
    checkout.shell(&format!("cp {deb} target/kept; echo >>{deb}"));
    checkout.is_refused(&next, "first is not as it was signed");
    // Nobody has signed this one.
    checkout.shell(&format!(
        "cp target/kept {deb}; cp {deb} target/first/apt/pool/cmonhachk_2.0.0_arm64.deb"
    ));
    checkout.is_released(&next);

    let all = files(&checkout.path("target/new"));
    for file in (expected("1.0.0") + "\n" + &expected("1.1.0")).lines() {
        assert!(all.lines().any(|other| other == file), "{file}: {all}");
    }
    assert!(!all.contains("2.0.0"), "{all}");
    let list = fs::read_to_string(checkout.path("target/new/apt/dists/stable/main/binary-arm64/Packages")).unwrap();
    for version in ["1.0.0", "1.1.0"] {
        assert!(
            list.contains(&format!("Filename: pool/cmonhachk_{version}_arm64.deb\n")),
            "{list}"
        );
    }
    assert!(!list.contains("amd64.deb"), "{list}");
}

#[test]
fn the_documents_commands_make_a_release_and_the_next_one() {
    let checkout = Checkout::new();
    fs::create_dir(checkout.path("target/srv")).unwrap();
    let run = |start: &str| {
        let pasted = commands(start)
            .replace("/srv/", "target/srv/")
            .replace("HOST", "packages.localdomain");
        // Nobody types a passphrase.
        let pasted = pasted.replace("--quick", "--batch --passphrase '' --quick");
        checkout.shell(&pasted.replace("0.5.0", "1.0.0").replace("0.6.0", "1.1.0"));
        fs::read_link(checkout.path("target/srv/cmonhachk")).unwrap_or_default()
    };
    run("gpg --quick-generate-key");
    // Within a list.
    assert_eq!(run("   deploy/release.sh --key"), Path::new("cmonhachk-1.0.0"));
    checkout.next_version();
    assert_eq!(run("deploy/release.sh --key"), Path::new("cmonhachk-1.1.0"));
    let all = files(&checkout.path("target/srv/cmonhachk-1.1.0"));
    assert!(all.contains("cmonhachk_1.0.0_amd64.deb"), "{all}");
}

fn time(file: &Path) -> SystemTime {
    fs::metadata(file).unwrap().modified().unwrap()
}

/// The packages in target/dist, with their contents and times.
fn packages(checkout: &Checkout) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
    let entries = fs::read_dir(checkout.path("target/dist")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let of_interest = paths.filter(|path| path.extension().is_some_and(|kind| kind == "deb" || kind == "rpm"));
    let mut packages: Vec<_> = of_interest
        .map(|path| (path.clone(), fs::read(&path).unwrap(), time(&path)))
        .collect();
    packages.sort();
    packages
}

#[test]
fn old_packages_stay_until_the_new_ones_are_complete_and_nobody_is_told_that_they_are_new() {
    let checkout = Checkout::new();
    let package = || checkout.command("deploy/package.sh").output().unwrap();
    let fails = |saying: &str, closing: &str| {
        let output = package();
        let said = said(&output);
        assert!(
            !output.status.success() && said.contains(saying) && said.ends_with(closing),
            "{said}"
        );
        assert!(!said.contains("Made these packages"), "{said}");
    };
    let broken = |file: &str, text: &str, saying: &str, closing: &str| {
        let sound = fs::read_to_string(checkout.path(file)).unwrap();
        checkout.write(file, text);
        fails(saying, closing);
        checkout.write(file, &sound);
    };
    broken(
        "src/main.rs",
        "nothing",
        "could not compile",
        "package: Made no packages.\n",
    );

    // The clock of files is a little late.
    let began = SystemTime::now() - Duration::from_millis(10);
    assert!(package().status.success());
    let old = packages(&checkout);
    assert_eq!(old.len(), 4);
    // Their time is that of the beginning, when no program was built.
    let built = time(&checkout.path("target/dist/cmonhachk"));
    assert!(
        old.iter().all(|(_, _, time)| *time > began && *time < built),
        "{began:?}"
    );
    let closing = "package: Made no packages. Those in target/dist are of an earlier run.\n";
    broken("src/main.rs", "nothing", "could not compile", closing);
    broken(
        "deploy/package/cmonhachk-xinetd.yaml",
        "nothing",
        "could not make the deb of cmonhachk-xinetd",
        closing,
    );
    broken(
        "deploy/package/changelog",
        "cmonhachk (2) stable;\n",
        "changelog begins with 2",
        closing,
    );
    assert!(packages(&checkout) == old, "they are as they were");

    checkout.changelog("1.1.0", "UNRELEASED");
    checkout.shell("sed -i s/1.0.0/1.1.0/ Cargo.toml Cargo.lock");
    assert!(package().status.success());
    let new = packages(&checkout);
    assert!(new.len() == 4 && new.iter().all(|(path, _, _)| path.to_str().unwrap().contains("1.1.0")));
}
