//! What this machine says of itself: its defaults file, its users and its interfaces' addresses.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, anyhow};
use nix::ifaddrs::getifaddrs;
use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::unistd::Uid;

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

/// A user's home folder, from /etc/passwd. The C library's way would load plug-ins for other
/// databases, which a static binary cannot; whoever is only in those needs HOME in the service file.
pub fn home_of(user: Uid) -> Option<OsString> {
    home_in(&fs::read("/etc/passwd").ok()?, user)
}

/// Source of the format: passwd(5). Seven fields between colons, of which the third is the user's
/// number and the sixth the home folder.
fn home_in(passwd: &[u8], user: Uid) -> Option<OsString> {
    let number = user.to_string();
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        match fields.as_slice() {
            [_, _, uid, _, _, home, _] if *uid == number.as_bytes() && !home.is_empty() => {
                Some(OsStr::from_bytes(home).to_owned())
            }
            _ => None,
        }
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_the_sixth_field_of_the_users_line() {
        let passwd = b"root:x:0:0:root:/root:/bin/bash\n\
            broken:x:7:7:/short\n\
            nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
            homeless:x:8:8:::/bin/sh\n\
            cmonhachk:x:7:7::/var/lib/cmonhachk:/usr/sbin/nologin";
        let home = |uid| home_in(passwd, Uid::from_raw(uid));
        assert_eq!(home(0), Some("/root".into()));
        assert_eq!(home(7), Some("/var/lib/cmonhachk".into()));
        assert_eq!(home(8), None);
        assert_eq!(home(6553), None);
        assert_eq!(home_in(b"", Uid::from_raw(0)), None);
    }
}
