//! What this machine says of itself: its defaults file and its interfaces' addresses.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, anyhow};
use nix::ifaddrs::getifaddrs;
use nix::libc::{O_NOCTTY, O_NONBLOCK};

use crate::reason::{Fault, Reason};

/// How large a defaults file may be, in bytes.
pub const MAX_DEFAULTS: u64 = 1024 * 1024;

/// Reads the defaults file whole.
///
/// # Errors
/// [`Reason::DefaultsMissing`] or [`Reason::DefaultsUnreadable`], with the path.
pub fn defaults_file(path: &Path) -> Result<Vec<u8>, Fault> {
    let missing = |error: &std::io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    // A FIFO in its place must not block.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK | O_NOCTTY)
        .open(path)
        .map_err(|error| {
            let reason = if missing(&error) {
                Reason::DefaultsMissing
            } else {
                Reason::DefaultsUnreadable
            };
            reason.because(anyhow!(error).context(format!("cannot open {}", path.display())))
        })?;
    let read = || -> anyhow::Result<Vec<u8>> {
        anyhow::ensure!(file.metadata()?.is_file(), "it is no regular file");
        let mut text = Vec::new();
        (&file).take(MAX_DEFAULTS + 1).read_to_end(&mut text)?;
        anyhow::ensure!(
            text.len() as u64 <= MAX_DEFAULTS,
            "it is larger than {MAX_DEFAULTS} bytes"
        );
        Ok(text)
    };
    read()
        .with_context(|| format!("cannot read {}", path.display()))
        .map_err(|error| Reason::DefaultsUnreadable.because(error))
}

/// The addresses of this machine's interfaces, loopback left out.
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
