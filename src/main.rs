//! Started once for every connection; decides only who is asking.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use cmonhachk::by_hand::by_hand;
use cmonhachk::connection::Connection;
use cmonhachk::options::Options;
use cmonhachk::serve::serve;

fn main() -> ExitCode {
    let started = Instant::now();
    // First of all, so that nothing but the answer can reach a client.
    let connection = Connection::on_stdin();
    match (connection, Options::try_parse()) {
        (Some(connection), options) => {
            serve(&connection, options, started);
            ExitCode::SUCCESS
        }
        (None, Ok(options)) => by_hand(&options, started),
        (None, Err(error)) => error.exit(),
    }
}
