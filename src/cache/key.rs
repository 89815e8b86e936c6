//! The cache key: a digest of what decides the verdict.
//!
//! A changed file or variable must not give the old verdict, and must end a back-off. `--timeout` is in the key: a
//! timeout of s9s says nothing to a service that waits longer. `--max-age` is not: it changes how a verdict is used,
//! not what it is. The files of keys that an s9s.conf names are not, either.

use std::env;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;

use crate::options::Options;
use crate::os::files::stamp;
use crate::s9s::{self, config};

/// The key of a check with these options, in this process's environment and this boot.
pub(super) fn key(options: &Options, boot: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (env!("CARGO_PKG_VERSION"), boot).hash(&mut hasher);
    (&options.cmon_defaults, stamp(&options.cmon_defaults)).hash(&mut hasher);
    (&options.node, options.timeout).hash(&mut hasher);

    let program = s9s::find(&options.s9s).ok();
    (&program, program.as_deref().and_then(stamp)).hash(&mut hasher);
    for file in config::files() {
        (stamp(&file), file).hash(&mut hasher);
    }

    let decides = |name: &OsStr| name == "HOME" || name == "CMON_CONTROLLER" || name.as_bytes().starts_with(b"S9S_");
    let mut environment: Vec<_> = env::vars_os().filter(|(name, _)| decides(name)).collect();
    environment.sort();
    environment.hash(&mut hasher);
    hasher.finish()
}
