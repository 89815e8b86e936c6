//! Started once for every connection; decides only who is asking.
//!
//! The C library starts `main` directly, without Rust's runtime: that would first read
//! /proc/self/maps and set up a stack for signals, which makes a third of the instructions of a check
//! that shares a verdict.

#![no_main]

use std::ffi::{c_char, c_int};
use std::time::Instant;

use cmonhachk::by_hand::by_hand;
use cmonhachk::connection::Connection;
use cmonhachk::options::Options;
use cmonhachk::serve::serve;

// SAFETY: no other symbol of this name is linked; crt1 calls it once, as C's main.
#[unsafe(no_mangle)]
extern "C" fn main(_arguments: c_int, _argument: *const *const c_char) -> c_int {
    let started = Instant::now();
    // First of all, so that nothing but the answer can reach a client.
    if let Some(connection) = Connection::on_stdin() {
        serve(&connection, started);
        return 0;
    }
    match Options::read() {
        Ok(options) => by_hand(&options, started),
        Err(error) => error.exit(),
    }
}
