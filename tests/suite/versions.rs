//! Which system a test's nodes run on, and with which HAProxy and keepalived.
//!
//! `CMONHACHK_SYSTEM` chooses one system for all tests: `here` or `trixie`. `CMONHACHK_HAPROXY` and
//! `CMONHACHK_KEEPALIVED` name programs that are used in the place of the system's own; they are those that
//! tests/versions.sh has built for the system `here`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::project;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    /// That of this machine: Debian 12, with HAProxy 2.6 and keepalived 2.2.7.
    Here,
    /// Debian 13, with HAProxy 3.0 and keepalived 2.3.3.
    Trixie,
}

/// What a test runs on.
#[derive(Clone, Debug)]
pub struct Versions {
    pub system: System,
    haproxy: Option<PathBuf>,
    keepalived: Option<PathBuf>,
}

impl Versions {
    /// For a test that runs once.
    pub fn usual() -> Versions {
        let program = |variable| env::var_os(variable).map(PathBuf::from);
        Versions {
            system: chosen().unwrap_or(System::Here),
            haproxy: program("CMONHACHK_HAPROXY"),
            keepalived: program("CMONHACHK_KEEPALIVED"),
        }
    }

    /// For a test that runs once on each system. None if another system was chosen.
    pub fn on(system: System) -> Option<Versions> {
        let usual = Versions::usual();
        let is_built = usual.haproxy.is_some() || usual.keepalived.is_some();
        let chosen = chosen().or(is_built.then_some(System::Here));
        if chosen.is_some_and(|chosen| chosen != system) {
            eprintln!("not run: {chosen:?} was chosen");
            return None;
        }
        Some(Versions { system, ..usual })
    }

    /// Whether a variable names the system or a program.
    pub fn is_chosen(&self) -> bool {
        chosen().is_some() || self.haproxy.is_some() || self.keepalived.is_some()
    }

    /// A name for files.
    pub fn name(&self) -> String {
        let system = format!("{:?}", self.system).to_lowercase();
        let folder = |program: &PathBuf| program.parent()?.file_name()?.to_str().map(str::to_string);
        let programs = [&self.haproxy, &self.keepalived]
            .into_iter()
            .flatten()
            .filter_map(folder);
        [system].into_iter().chain(programs).collect::<Vec<_>>().join("-")
    }

    /// The root that the nodes boot.
    pub fn root(&self) -> PathBuf {
        match self.system {
            System::Here => "/".into(),
            System::Trixie => root("trixie-front"),
        }
    }

    /// A shell command that puts the chosen programs into a root, run in that.
    pub fn prepare(&self) -> String {
        let mut prepare = String::new();
        for (program, name) in [(&self.haproxy, "haproxy"), (&self.keepalived, "keepalived")] {
            if let Some(program) = program {
                prepare += &format!("cp {} usr/sbin/{name}\n", program.display());
            }
        }
        prepare
    }

    /// A command that runs this HAProxy on this machine.
    pub fn haproxy(&self) -> Command {
        self.command(&self.haproxy, "haproxy")
    }

    pub fn keepalived(&self) -> Command {
        self.command(&self.keepalived, "keepalived")
    }

    fn command(&self, built: &Option<PathBuf>, name: &str) -> Command {
        match (built, self.system) {
            (Some(program), _) => Command::new(program),
            (None, System::Here) => Command::new(name),
            (None, System::Trixie) => in_usr_of("trixie-front", name),
        }
    }
}

fn chosen() -> Option<System> {
    let name = env::var("CMONHACHK_SYSTEM").ok()?;
    match &*name {
        "here" => Some(System::Here),
        "trixie" => Some(System::Trixie),
        _ => panic!("CMONHACHK_SYSTEM is neither here nor trixie: {name}"),
    }
}

/// A root of tests/root.sh, which makes it if need be.
pub fn root(name: &str) -> PathBuf {
    let mut make = Command::new(project().join("tests/root.sh"));
    assert!(make.arg(name).status().unwrap().success(), "no root {name}");
    project().join("target/roots").join(name)
}

/// A command for a program of a root: it sees that root's /usr, which all Debians have their programs and
/// libraries in, and everything else of this machine. Its process is the one that is started.
pub fn in_usr_of(root_name: &str, program: &str) -> Command {
    let script = r#"
        mount --bind "$1/usr" /usr
        # keepalived 2.3 reads a file there at its start.
        mount --bind "$1/etc/keepalived" /etc/keepalived
        shift
        exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-euc", script, "sh"]);
    command.arg(root(root_name));
    command.arg(Path::new("/usr/sbin").join(program));
    command
}

/// Makes two tests of each function, one for each system, in the modules `here` and `trixie`.
macro_rules! on_each_system {
    ($($test:ident),+ $(,)?) => {
        mod here {
            $(#[test]
            fn $test() {
                $crate::versions::Versions::on($crate::versions::System::Here).iter().for_each(super::$test);
            })+
        }

        mod trixie {
            $(#[test]
            fn $test() {
                $crate::versions::Versions::on($crate::versions::System::Trixie).iter().for_each(super::$test);
            })+
        }
    };
}
pub(crate) use on_each_system;
