//! What the kernel says in /proc.

use std::fs::{self, File};
use std::io::{self, Read};

use nix::unistd::Pid;

/// Where the kernel identifies this boot.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Identifies this boot. Source: proc(5), /proc/sys/kernel/random/boot_id: 36 characters.
///
/// # Errors
/// The file cannot be read: /proc/sys is hidden, or /proc is not mounted.
pub fn boot_id() -> io::Result<String> {
    let mut text = [0; 36];
    File::open(BOOT_ID)?.read_exact(&mut text)?;
    String::from_utf8(text.to_vec()).map_err(io::Error::other)
}

/// When the process started, in clock ticks since boot. None if there is no such process, or only its zombie.
/// Source: proc(5), the first and the 20th word after the program's name.
pub fn start_of(process: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut words = stat.rsplit(')').next()?.split_whitespace();
    words.next().filter(|state| *state != "Z")?;
    words.nth(18)?.parse().ok()
}
