//! What does the machine offer: its clock, its files, its processes, its log?
//!
//! Each file is a small piece of the system's interface, with the limits and the care that a health check needs.
//! Nothing here knows what a health check is.

pub mod clock;
pub mod env_file;
pub mod files;
pub mod interfaces;
pub mod proc;
pub mod signals;
pub mod syslog;
pub mod text;
pub mod watchdog;
