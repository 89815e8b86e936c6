//! The configuration that s9s reads: its s9s.conf files, and the keys beside them.
//!
//! Source: the genuine client (s9s-tools 1.9). It reads the user's file and the system's; a value in the
//! first outranks one in the second.

use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::machine::{home_of, identity, is_missing, read_file, set};
use crate::settings;

/// The home folder that s9s uses: HOME, or the user's own if the environment lacks HOME.
pub fn home() -> Option<OsString> {
    set("HOME").or_else(|| home_of(Uid::effective()))
}

/// The s9s.conf files; a value in the first counts before one in the second.
pub fn files() -> [PathBuf; 2] {
    let file = |variable, usual: &str| expand(&set(variable).unwrap_or_else(|| usual.into()));
    [
        file("S9S_USER_CONFIG", "~/.s9s/s9s.conf"),
        file("S9S_SYSTEM_CONFIG", "/etc/s9s.conf"),
    ]
}

/// The path, with the home folder for a `~` at its start.
fn expand(path: &OsStr) -> PathBuf {
    match Path::new(path).strip_prefix("~") {
        Ok(rest) => PathBuf::from(home().unwrap_or_default()).join(rest),
        Err(_) => path.into(),
    }
}

/// A digest that tells these credentials, the files and the key, from others.
pub fn digest() -> u32 {
    let files = files();
    let texts: Vec<_> = files.iter().filter_map(|file| read_file(file).ok()).collect();
    let set = |name| texts.iter().find_map(|text| value(text, name));
    let key = set("auth_key").or_else(|| Some(format!("~/.s9s/{}.key", set("cmon_user")?)));
    let key = key.map(|key| expand(OsStr::new(&key)));
    let mut hasher = DefaultHasher::new();
    for path in files.into_iter().chain(key) {
        (identity(&path), path).hash(&mut hasher);
    }
    // Half of the digest, so that the cache entry stays short.
    (hasher.finish() >> 32) as u32
}

/// In lines: which files s9s reads, what they say about the user, and which controller is asked.
pub fn describe() -> Vec<String> {
    let mut lines = Vec::new();
    for path in files() {
        let text = match read_file(&path) {
            Ok(text) => text,
            Err(error) if is_missing(&error) => {
                lines.push(format!("{}: not there", path.display()));
                continue;
            }
            Err(error) => {
                lines.push(format!("{}: cannot be read: {error}", path.display()));
                continue;
            }
        };
        let user = value(&text, "cmon_user").map_or("sets no user".to_string(), |user| format!("sets the user {user}"));
        lines.push(format!("{}: {user}", path.display()));
    }
    lines.push(match controller() {
        Some((url, origin)) => format!("controller asked: {url} ({origin})"),
        None => "controller asked: https://localhost:9501 (default)".to_string(),
    });
    lines
}

/// The URL of the controller that s9s is told to ask, and what tells it.
pub fn controller() -> Option<(String, String)> {
    let from = |name| {
        let value = |path: &PathBuf| Some((value(&read_file(path).ok()?, name)?, path.display().to_string()));
        files().iter().find_map(value)
    };
    match set("CMON_CONTROLLER") {
        Some(url) => Some((url.display().to_string(), "CMON_CONTROLLER".to_string())),
        None => from("controller").or_else(|| from("controller_host_name")),
    }
}

/// The value of the last line `name = value`.
fn value(text: &[u8], name: &str) -> Option<String> {
    let value = |line: &[u8]| {
        let rest = line.trim_ascii().strip_prefix(name.as_bytes())?.trim_ascii_start();
        let (value, _) = settings::value(rest.strip_prefix(b"=")?)?;
        Some(String::from_utf8_lossy(&value).trim().to_string()).filter(|value| !value.is_empty())
    };
    text.split(|byte| *byte == b'\n').rev().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stands_behind_its_name_alone() {
        let text =
            b"[global]\n# cmon_user = a\ncmon_user_x = b\n  cmon_user=\"system\" # c\ncmon_password = x\ncontroller=";
        assert_eq!(value(text, "cmon_user").as_deref(), Some("system"));
        assert_eq!(value(text, "controller"), None);
    }
}
