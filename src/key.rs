//! The cache key: a digest of everything that decides the verdict.
//!
//! A changed file or variable must not give the old verdict. `--timeout` is in the key: a timeout of s9s says
//! nothing to a service that waits longer. `--max-age` is not: it changes how a verdict is used, not what it is.

use std::env;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::machine::identity;
use crate::options::Options;
use crate::s9s::is_loud;

/// The key of a check with these options and this s9s, in this process's environment and this boot.
pub fn key(options: &Options, s9s: Option<&Path>, boot: &str) -> u64 {
    let decides = |name: &OsStr| {
        let is_s9s = name.as_bytes().starts_with(b"S9S_") && name != "S9S_CONNECTION_TIMEOUT";
        name == "HOME" || name == "CMON_CONTROLLER" || (is_s9s && !is_loud(name))
    };
    let mut environment: Vec<_> = env::vars_os()
        .filter(|(name, value)| decides(name) && !value.is_empty())
        .collect();
    environment.sort();
    let mut hasher = DefaultHasher::new();
    (env!("CARGO_PKG_VERSION"), boot).hash(&mut hasher);
    (&options.cmon_defaults, identity(&options.cmon_defaults)).hash(&mut hasher);
    (&options.node, options.timeout).hash(&mut hasher);
    (s9s, s9s.and_then(identity)).hash(&mut hasher);
    environment.hash(&mut hasher);
    // The network namespace decides which interfaces and controllers there are. The mount namespace is
    // left out: the files' identities cover what matters of it.
    identity(Path::new("/proc/self/ns/net"))
        .map(|(device, inode, ..)| (device, inode))
        .hash(&mut hasher);
    hasher.finish()
}
