//! Limits on every resource that the kernel can limit: the client gets an answer or nothing, and
//! never a text that is not ours.
//!
//! No answer is allowed only where the kernel itself cannot start the program: below the smallest
//! sufficient value in the limit's row of `LIMITS`.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use cmonhachk::verdict::reason::Reason;
use nix::errno::Errno;
use nix::libc::{self, rlimit};

use crate::cluster::{Cluster, GET, LEADER, try_connect, unknown};

type Resource = libc::__rlimit_resource_t;

/// A limit of a resource.
type Limit = (Resource, u64);

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Name, number, values, and the smallest sufficient value: with it there must be an answer.
const LIMITS: &[(&str, Resource, &[u64], u64)] = &[
    (
        "NOFILE",
        libc::RLIMIT_NOFILE,
        &[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
        3,
    ),
    ("NPROC", libc::RLIMIT_NPROC, &[0, 1, 2, 3, 4, 8], 0),
    (
        "AS",
        libc::RLIMIT_AS,
        &[
            0,
            64 * KIB,
            256 * KIB,
            512 * KIB,
            MIB,
            2 * MIB,
            3 * MIB,
            4 * MIB,
            5 * MIB,
            6 * MIB,
            8 * MIB,
            12 * MIB,
            16 * MIB,
            32 * MIB,
            64 * MIB,
        ],
        8 * MIB,
    ),
    (
        "DATA",
        libc::RLIMIT_DATA,
        &[
            0,
            4 * KIB,
            16 * KIB,
            64 * KIB,
            128 * KIB,
            192 * KIB,
            256 * KIB,
            384 * KIB,
            512 * KIB,
            MIB,
            2 * MIB,
            8 * MIB,
        ],
        512 * KIB,
    ),
    (
        "STACK",
        libc::RLIMIT_STACK,
        &[
            0,
            4 * KIB,
            16 * KIB,
            32 * KIB,
            64 * KIB,
            128 * KIB,
            256 * KIB,
            512 * KIB,
            MIB,
            8 * MIB,
        ],
        64 * KIB,
    ),
    // A limit of 0 seconds is used up at the first tick of the clock.
    ("CPU", libc::RLIMIT_CPU, &[0, 1, 2], 1),
    ("FSIZE", libc::RLIMIT_FSIZE, &[0, 1, 100, 191, 192, 4096], 0),
    ("CORE", libc::RLIMIT_CORE, &[0, 1, 4096], 0),
    ("MEMLOCK", libc::RLIMIT_MEMLOCK, &[0, 1, 4096], 0),
    ("SIGPENDING", libc::RLIMIT_SIGPENDING, &[0, 1, 2], 0),
];

/// Makes a program start under limits, as a user whose processes are counted.
fn limit(command: &mut Command, limits: &[Limit]) {
    let limits = limits.to_vec();
    let user = 62_000 + std::process::id() % 1000;
    let prepare = move || -> io::Result<()> {
        // SAFETY: takes an integer.
        Errno::result(unsafe { libc::setuid(user) })?;
        for (resource, value) in &limits {
            let limit = rlimit {
                rlim_cur: *value,
                rlim_max: *value,
            };
            // SAFETY: reads a structure that is there.
            Errno::result(unsafe { libc::setrlimit(*resource, &limit) })?;
        }
        Ok(())
    };
    // SAFETY: nothing but two system calls, and no allocation.
    unsafe { command.pre_exec(prepare) };
}

/// The outcome of a check.
enum Outcome {
    /// The kernel could not start the program.
    NotStarted(io::Error),
    /// The client got this text, and an orderly end or an error; then the exit status.
    Said(Vec<u8>, io::Result<()>, ExitStatus),
}

fn check_under(cluster: &Cluster, limits: &[Limit]) -> Outcome {
    let node = cluster.leader();
    let mut command = Command::new(cluster.folder.join("cmonhachk"));
    command.env_clear().env("HOME", "/");
    for (name, value) in node.command().get_envs() {
        command.env(name, value.unwrap());
    }
    // Any answer is right; a short time saves some where s9s cannot do its work.
    limit(command.args(["--max-age", "0", "--timeout", "1.5"]), limits);
    match try_connect(&mut command, GET) {
        Err(error) => Outcome::NotStarted(error),
        Ok(mut client) => {
            let mut said = Vec::new();
            let end = client.stream.read_to_end(&mut said).map(|_| ());
            let _ = client.stream.shutdown(Shutdown::Both);
            Outcome::Said(said, end, client.responder.wait().unwrap())
        }
    }
}

/// Judges a check under limits; returns its outcome in words.
fn judged(cluster: &Cluster, limits: &[Limit], must_answer: bool) -> Result<String, String> {
    match check_under(cluster, limits) {
        Outcome::NotStarted(error) if !must_answer => Ok(format!("not started: {error}")),
        Outcome::Said(said, _, status) if said.is_empty() && !must_answer && status.signal().is_some() => {
            Ok(format!("nothing: {status}"))
        }
        // The limit of CPU time may end a check that has answered.
        Outcome::Said(said, Ok(()), status) if status.success() || !must_answer => {
            let said = String::from_utf8_lossy(&said).into_owned();
            let mut codes = Reason::ALL.into_iter().map(Reason::code);
            if said == LEADER {
                return Ok("leader".to_string());
            }
            match codes.find(|code| said == unknown(code)) {
                Some(code) => Ok(code.to_string()),
                None => Err(format!("{said:?}")),
            }
        }
        Outcome::NotStarted(error) => Err(format!("not started: {error}")),
        Outcome::Said(said, end, status) => Err(format!("{:?}, {end:?}, {status}", String::from_utf8_lossy(&said))),
    }
}

#[test]
fn under_every_limit_there_is_one_answer_or_the_kernel_starts_nothing() {
    let mut wrong = Vec::new();
    for (name, resource, values, enough) in LIMITS {
        for value in *values {
            let cluster = Cluster::for_any_user();
            match judged(&cluster, &[(*resource, *value)], value >= enough) {
                Ok(outcome) => println!("{name} {value}: {outcome}"),
                Err(outcome) => wrong.push(format!("{name} {value}: {outcome}")),
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
