//! What this machine says about itself: its files, users, processes and interfaces.

use std::env;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Error, ErrorKind, Read};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, anyhow};
use nix::ifaddrs::getifaddrs;
use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::unistd::Pid;

use crate::verdict::reason::{Fault, Reason};

/// How large a configuration file may be, in bytes.
pub const MAX_FILE: u64 = 1024 * 1024;

/// Reads a regular file of at most [`MAX_FILE`] bytes.
///
/// # Errors
/// The system's error, or that the file is not regular or is too large.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO in its place must not block.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK | O_NOCTTY)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::other("it is not a regular file"));
    }
    let mut text = Vec::with_capacity(4096);
    (&file).take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    Ok(text)
}

/// Whether the error means that there is no such file.
pub fn is_missing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Identifies a file and its content: device, inode, and when it last changed (ctime, which no program
/// can set). None if there is no such file.
pub fn identity(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

/// Identifies this boot. Source: proc(5), /proc/sys/kernel/random/boot_id: 36 characters.
///
/// # Errors
/// The kernel does not say: /proc/sys is hidden, or /proc is not mounted.
pub fn boot_id() -> anyhow::Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let mut text = [0; 36];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut text));
    read.with_context(|| format!("without {path}, no verdict can be dated"))?;
    Ok(String::from_utf8(text.to_vec())?)
}

/// When the process started, in clock ticks since boot. None if there is no such process, or only its zombie.
/// Source: proc(5), the first and the 20th word after the program's name.
pub fn start_of(process: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut words = stat.rsplit(')').next()?.split_whitespace();
    words.next().filter(|state| *state != "Z")?;
    words.nth(18)?.parse().ok()
}

/// The value of an environment variable that is not empty.
pub fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The addresses of the interfaces, up or down, without loopback.
///
/// # Errors
/// [`Reason::InterfacesUnreadable`] with the system's error.
pub fn interface_addresses() -> Result<Vec<IpAddr>, Fault> {
    let interfaces = getifaddrs().map_err(|errno| {
        Reason::InterfacesUnreadable.because(anyhow!(errno).context("cannot list the interfaces' addresses"))
    })?;
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    });
    Ok(addresses.filter(|address| !address.is_loopback()).collect())
}
