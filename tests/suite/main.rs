//! What can be seen of cmonhachk from outside, one scenario for each test. The binary, xinetd, HAProxy,
//! curl and genhash are the real ones; only s9s is simulated (tests/sim/s9s).

mod alone;
mod by_hand;
mod cache;
mod client;
mod cluster;
mod connection;
mod controller;
mod corpora;
mod documents;
mod failover;
mod front;
mod haproxy;
mod hostile;
mod late;
mod launchers;
mod limits;
mod listener;
mod lock;
mod lock_file;
mod node;
mod packages;
mod pauses;
mod portable;
mod properties;
mod rights;
mod s9s;
mod scale;
mod shells;
mod simulation;
mod stale;
mod syslog;
mod systemd;
mod texts;
mod together;
mod xinetd;
