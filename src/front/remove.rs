//! Removes the front from this host. It needs neither HAProxy nor keepalived, and no arguments of the last run.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use crate::failure::Outcome;
use crate::haproxy;
use crate::host::{self, NOTES, Run, within};
use crate::keepalived;
use crate::network::{self, Holder};

/// Another node takes the address at once; where all of them have to find out, it takes 3 to 4 s.
const MOVE: Duration = Duration::from_secs(6);
/// The file that keepalived followed in version 0.1.0.
const FORMER: &str = "/run/cmonhachk-front.weight";

/// Removes it.
pub fn remove(run: &mut Run) -> Outcome<()> {
    let snippet = host::text_of(keepalived::SNIPPET);
    if snippet.is_some() || keepalived::is_included() {
        remove_from_keepalived(run)?;
    }
    if host::exists(haproxy::CONFIGURATION) || host::is_enabled(haproxy::SERVICE) {
        let (service, file) = (haproxy::SERVICE, haproxy::CONFIGURATION);
        if run.change(&format!("Stops {service}, and removes {file}")) {
            host::control(service, &["--quiet", "disable", "--now"])?;
            host::remove_file(file)?;
        }
    }
    if run.dry_run {
        return Ok(());
    }
    let _ = fs::remove_dir_all(NOTES);
    for file in [FORMER, haproxy::FOLLOWED] {
        host::remove_file(file)?;
    }
    let snippet = snippet.unwrap_or_default();
    if let [vip, ..] = keepalived::addresses_in(&snippet, "virtual_ipaddress")[..] {
        tell_where_it_is(vip, &keepalived::addresses_in(&snippet, "unicast_peer"));
    }
    Ok(())
}

fn remove_from_keepalived(run: &mut Run) -> Outcome<()> {
    let file = keepalived::CONFIGURATION;
    let others = keepalived::others();
    if others.as_deref().is_some_and(keepalived::is_made) {
        if run.change(&format!("Stops {}, and removes {file}", keepalived::SERVICE)) {
            tell_keepalived("stop")?;
            host::remove_file(file)?;
        }
    } else if let Some(others) = others {
        host::put(run, file, &others)?;
    }
    // It goes last: while it is there, keepalived may still use it.
    let snippet = keepalived::SNIPPET;
    if run.change(&format!("Removes {snippet}")) {
        tell_keepalived("try-reload-or-restart")?;
        host::remove_file(snippet)?;
    }
    Ok(())
}

/// Without keepalived's package there is no unit, and nothing runs.
fn tell_keepalived(verb: &str) -> Outcome<()> {
    match host::property(keepalived::SERVICE, "LoadState").as_str() {
        "not-found" => Ok(()),
        _ => host::control(keepalived::SERVICE, &[verb]),
    }
}

fn tell_where_it_is(vip: IpAddr, peers: &[IpAddr]) {
    println!("Looks who has {vip} now.");
    let moved =
        || Some(network::holder(vip, peers)).filter(|holder| !matches!(holder, Holder::Nobody | Holder::ThisHost));
    let holder = within(MOVE, moved).unwrap_or_else(|| network::holder(vip, peers));
    println!("{vip} is on {} now.", holder.words(None));
}
