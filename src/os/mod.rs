//! The machine.

pub mod clock;
pub mod env_file;
pub mod files;
pub mod syslog;
pub mod watchdog;
