//! The cache key: a digest of what decides the verdict, but for the files of s9s itself.
//!
//! A changed file or variable must not give the old verdict. `--timeout` is in the key: a timeout of s9s says
//! nothing to a service that waits longer. `--max-age` is not: it changes how a verdict is used, not what it is.

use std::env;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;

use crate::options::Options;
use crate::os::files::identity;
use crate::s9s;

/// The key of a check with these options, in this process's environment and this boot.
pub fn key(options: &Options, boot: &str) -> u64 {
    let decides = |name: &OsStr| name == "HOME" || name == "CMON_CONTROLLER" || name.as_bytes().starts_with(b"S9S_");
    let mut environment: Vec<_> = env::vars_os().filter(|(name, _)| decides(name)).collect();
    environment.sort();
    let mut hasher = DefaultHasher::new();
    (env!("CARGO_PKG_VERSION"), boot).hash(&mut hasher);
    (&options.cmon_defaults, identity(&options.cmon_defaults)).hash(&mut hasher);
    (&options.node, options.timeout).hash(&mut hasher);
    let s9s = s9s::find(&options.s9s).ok();
    (&s9s, s9s.as_deref().and_then(identity)).hash(&mut hasher);
    environment.hash(&mut hasher);
    hasher.finish()
}
