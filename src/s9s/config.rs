//! The configuration that s9s reads: its s9s.conf files.
//!
//! Source: the genuine client (s9s-tools 1.9), its config_lexer.l for the values. It reads the user's file and
//! the system's; a value in the first outranks one in the second.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Uid, User, access};

use crate::os::files::{is_missing, read_file};

/// The home folder that s9s uses, and where that is from. If this user cannot enter HOME, it belongs to somebody
/// else and was handed on by the program that started xinetd.
pub fn home() -> Option<(OsString, &'static str)> {
    static HOME: LazyLock<Option<(OsString, &str)>> = LazyLock::new(|| {
        let given = variable("HOME").filter(|home| access(Path::new(home), AccessFlags::X_OK).is_ok());
        let own = || {
            Some((
                User::from_uid(Uid::effective()).ok()??.dir.into_os_string(),
                "/etc/passwd",
            ))
        };
        given.map(|home| (home, "HOME")).or_else(own)
    });
    HOME.clone()
}

/// The s9s.conf files; a value in the first counts before one in the second.
pub fn files() -> [PathBuf; 2] {
    let file = |name, usual: &str| expand(&variable(name).unwrap_or_else(|| usual.into()));
    [
        file("S9S_USER_CONFIG", "~/.s9s/s9s.conf"),
        file("S9S_SYSTEM_CONFIG", "/etc/s9s.conf"),
    ]
}

/// The value of an environment variable that is not empty.
pub(super) fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The path, with the home folder for a `~` at its start.
fn expand(path: &OsStr) -> PathBuf {
    let below_home = |rest| PathBuf::from(home().unwrap_or_default().0).join(rest);
    Path::new(path).strip_prefix("~").map_or(path.into(), below_home)
}

/// In lines: which home and files s9s reads, what they say about the user, how it logs in, and which controller is
/// asked.
pub fn describe() -> Vec<String> {
    let home = match home() {
        Some((home, origin)) => format!("home {} (from {origin})", home.display()),
        None => "no home: /etc/passwd names none, and HOME names none that this user can enter".to_string(),
    };
    let mut lines = vec![home];
    let mut controller = variable("CMON_CONTROLLER").map(|url| format!("{} (CMON_CONTROLLER)", url.display()));
    let mut texts = Vec::new();
    for path in files() {
        let says = match read_file(&path) {
            Ok(text) => {
                let url = value(&text, "controller").or_else(|| value(&text, "controller_host_name"));
                controller = controller.or(url.map(|url| format!("{url} ({})", path.display())));
                let says =
                    value(&text, "cmon_user").map_or("sets no user".into(), |user| format!("sets the user {user}"));
                texts.push((path.clone(), text));
                says
            }
            Err(error) if is_missing(&error) => "not there".into(),
            Err(error) => format!("cannot be read: {error}"),
        };
        lines.push(format!("{}: {says}", path.display()));
    }
    lines.extend(login(&texts).map(|(user, secret)| format!("logs in as {user}, {}", secret.in_words())));
    let controller = controller.unwrap_or("https://localhost:9501 (default)".to_string());
    lines.push(format!("controller asked: {controller}"));
    lines
}

/// What a user logs in with.
#[derive(Debug, PartialEq)]
enum Secret {
    /// The password in this file.
    Password(PathBuf),
    /// The key in this file, with a `~` for the home folder.
    Key(String),
}

/// Who logs in, and with what, if the files name a user. As s9s chooses: the password counts if it is in the file
/// that names the user, and then no key does.
fn login(files: &[(PathBuf, Vec<u8>)]) -> Option<(String, Secret)> {
    let (path, text, user) = files
        .iter()
        .find_map(|(path, text)| Some((path, text, value(text, "cmon_user")?)))?;
    if value(text, "cmon_password").is_some() {
        return Some((user, Secret::Password(path.clone())));
    }
    let named = files.iter().find_map(|(_, text)| value(text, "auth_key"));
    let key = named.unwrap_or_else(|| format!("~/.s9s/{user}.key"));
    Some((user, Secret::Key(key)))
}

impl Secret {
    fn in_words(&self) -> String {
        match self {
            Secret::Password(file) => format!("with the password in {}", file.display()),
            Secret::Key(key) => {
                let file = expand(key.as_ref());
                let fault = match access(&file, AccessFlags::R_OK) {
                    Ok(()) => "",
                    Err(Errno::ENOENT | Errno::ENOTDIR) => ", which is not there",
                    Err(_) => ", which this user cannot read",
                };
                format!("with the key {}{fault}", file.display())
            }
        }
    }
}

/// The value of the first line `name = value`, which is the one that s9s uses, in whatever section.
fn value(text: &[u8], name: &str) -> Option<String> {
    let value = |line: &[u8]| {
        let rest = line.trim_ascii().strip_prefix(name.as_bytes())?.trim_ascii_start();
        let rest = String::from_utf8_lossy(rest.strip_prefix(b"=")?).trim().to_string();
        let value = match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => rest[1..].split(quote).next(),
            _ => rest.split(['\t', '#']).next(),
        };
        value
            .map(|value| value.trim().to_string())
            .filter(|value| !value.is_empty())
    };
    text.split(|byte| *byte == b'\n').find_map(value)
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
        assert_eq!(value(b"cmon_user = a b # c", "cmon_user").as_deref(), Some("a b"));
        assert_eq!(
            value(b"cmon_user=\ncmon_user='a b'", "cmon_user").as_deref(),
            Some("a b")
        );
    }

    #[test]
    fn the_first_value_counts_as_it_does_for_s9s() {
        let text = b"[other]\ncmon_user = first\n[global]\ncmon_user = last\n";
        assert_eq!(value(text, "cmon_user").as_deref(), Some("first"));
    }

    /// What `login` finds in the user's file and in the system's, with the file that has the password.
    fn found(own: &str, system: &str) -> Option<(String, Secret)> {
        login(&[("own".into(), own.into()), ("system".into(), system.into())])
    }

    fn password(user: &str, file: &str) -> Option<(String, Secret)> {
        Some((user.to_string(), Secret::Password(file.into())))
    }

    fn key(user: &str, file: &str) -> Option<(String, Secret)> {
        Some((user.to_string(), Secret::Key(file.to_string())))
    }

    #[test]
    fn a_password_counts_before_a_key() {
        let both = "cmon_user = a\ncmon_password = x\nauth_key = /k\n";
        assert_eq!(found(both, ""), password("a", "own"));
        assert_eq!(found("", both), password("a", "system"));
        assert_eq!(found("cmon_user = a\ncmon_password =\n", ""), key("a", "~/.s9s/a.key"));
    }

    #[test]
    fn a_password_counts_only_in_the_file_that_names_the_user() {
        let system = "cmon_user = b\ncmon_password = x\n";
        assert_eq!(found("cmon_user = a\n", system), key("a", "~/.s9s/a.key"));
        assert_eq!(
            found("cmon_password = x\n", "cmon_user = b\n"),
            key("b", "~/.s9s/b.key")
        );
    }

    #[test]
    fn either_file_may_name_the_key_and_without_a_user_nobody_logs_in() {
        assert_eq!(found("cmon_user = a\n", "auth_key = /k\n"), key("a", "/k"));
        assert_eq!(
            found("auth_key = /own\n", "cmon_user = b\nauth_key = /k\n"),
            key("b", "/own")
        );
        assert_eq!(found("cmon_password = x\nauth_key = /k\n", ""), None);
        assert_eq!(login(&[]), None);
    }

    #[test]
    fn a_key_that_cannot_be_used_is_named() {
        assert_eq!(Secret::Key("/dev/null".into()).in_words(), "with the key /dev/null");
        assert_eq!(
            Secret::Key("/nonexistent/k".into()).in_words(),
            "with the key /nonexistent/k, which is not there"
        );
        // Nobody can read a file with so long a name; root can read all others.
        let long = format!("/{}", "k".repeat(300));
        assert_eq!(
            Secret::Key(long.clone()).in_words(),
            format!("with the key {long}, which this user cannot read")
        );
    }
}
