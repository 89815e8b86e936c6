//! Sets the front up, or repairs it.
//!
//! Every step compares what is wanted with the files, and these with what the services have read: a run can be
//! interrupted, and the next one finishes it.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;

use cmonhachk::client::state::State;

use crate::failure::{Failure, Outcome};
use crate::haproxy;
use crate::host::{self, Run, within};
use crate::keepalived;
use crate::network::{self, Holder};
use crate::nodes;
use crate::options::Way;
use crate::refusals;
use crate::remove;
use crate::site::Site;
use crate::users;

/// Configurations are tried here before they are put in place. One run at a time uses it.
const STAGE: &str = "/run/cmonhachk-front.stage";

/// HAProxy's first checks take a second, and the retry of one that failed another.
const FIND_LEADER: Duration = Duration::from_secs(10);
/// A node that starts takes the address after 3 to 4 s.
const GET_ADDRESS: Duration = Duration::from_secs(10);
/// A node that does not hear the one with the address takes it after 3 to 4 s.
const TAKE_ADDRESS: Duration = Duration::from_secs(6);

/// Sets the front up.
pub fn set_up(site: &Site, run: &mut Run) -> Outcome<()> {
    refusals::check_host(site)?;
    let list: Vec<String> = site.nodes.iter().map(IpAddr::to_string).collect();
    println!("Asks {}.", list.join(", "));
    let states = nodes::ask(&site.nodes);
    run.complaints = nodes::complaints(&site.nodes, &states, site.own);
    refusals::check_nodes(site, &states, run)?;

    let _stage = Stage::new()?;
    let elsewhere = match site.vip {
        Some(vip) => refusals::check_vip(site, vip)?,
        None => Holder::Nobody,
    };
    // keepalived's test of its configuration needs the folder, too.
    let is_new_folder = site.way == Way::Haproxy && haproxy::make_folder(run);
    let plan = Plan::of(site)?;
    plan.put_in_place(site, is_new_folder, run)?;
    if run.dry_run {
        return Ok(());
    }
    look(site, &states, run);
    if site.vip.is_some() && run.has_changed() {
        look_for_a_second_holder(site, &elsewhere, &states, run)?;
    }
    if run.complaints.is_empty() {
        println!("Users get to the leader at {}.", site.door());
    }
    Ok(())
}

/// The configurations that are wanted.
struct Plan {
    haproxy: Option<String>,
    keepalived: Option<Keepalived>,
}

struct Keepalived {
    snippet: String,
    whole: Vec<u8>,
}

impl Plan {
    /// # Errors
    /// HAProxy or keepalived does not accept its configuration.
    fn of(site: &Site) -> Outcome<Plan> {
        let haproxy = match site.has_haproxy() {
            true => Some(haproxy::configuration(site)?),
            false => None,
        };
        if let Some(text) = &haproxy {
            let staged = format!("{STAGE}/haproxy.cfg");
            host::write(&staged, text)?;
            haproxy::check(&staged)?;
        }
        let keepalived = match site.vip {
            Some(_) => Some(Keepalived::of(site)?),
            None => None,
        };
        Ok(Plan { haproxy, keepalived })
    }

    fn put_in_place(&self, site: &Site, is_new_folder: bool, run: &mut Run) -> Outcome<()> {
        if let Some(text) = &self.haproxy {
            let former = host::text_of(haproxy::CONFIGURATION);
            host::put(run, haproxy::CONFIGURATION, text)?;
            haproxy::start(site, text, former, run)?;
        }
        let Some(keepalived) = &self.keepalived else {
            return Ok(());
        };
        if site.has_haproxy() {
            haproxy::tell_keepalived(run);
        }
        let snippet = host::put(run, keepalived::SNIPPET, &keepalived.snippet)?;
        // If the run is interrupted here, the next one sees by the snippet's time that keepalived has to read it.
        if is_new_folder
            || (!run.dry_run && fs::read(keepalived::CONFIGURATION).ok().as_ref() != Some(&keepalived.whole))
        {
            host::run("touch", &[keepalived::SNIPPET]);
        }
        let whole = host::put(run, keepalived::CONFIGURATION, &keepalived.whole)?;
        keepalived::start(snippet || whole, run)
    }
}

impl Keepalived {
    fn of(site: &Site) -> Outcome<Keepalived> {
        let snippet = keepalived::snippet(site)?;
        let others = keepalived::others();
        keepalived::check(STAGE, &snippet, others.as_deref())?;
        Ok(Keepalived {
            snippet,
            whole: keepalived::with_include(others.as_deref()),
        })
    }
}

struct Stage;

impl Stage {
    fn new() -> Outcome<Stage> {
        // A run that was killed has left it.
        let _ = fs::remove_dir_all(STAGE);
        let made = fs::DirBuilder::new().mode(0o700).create(STAGE);
        made.map_err(|error| Failure::of(format!("cannot make {STAGE}: {error}")))?;
        Ok(Stage)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(STAGE);
    }
}

/// Looks whether users get to the leader now.
fn look(site: &Site, states: &[State], run: &mut Run) {
    if site.has_haproxy() && !finds_leader(site, run) {
        return;
    }
    let mut leaders = users::leaders(site, states);
    let mut is_told = false;
    let complaint = || {
        let complaint = users::complaint(site, &leaders)?;
        // The leadership may have moved meanwhile.
        leaders = users::leaders(site, &nodes::ask(&site.nodes));
        if !is_told {
            println!("Waits until users get to the leader at {}.", site.door());
            is_told = true;
        }
        Some(complaint)
    };
    run.complaints.extend(until_none(GET_ADDRESS, complaint));
}

/// Tries until nothing is wrong, or the time is up. Returns what is wrong then.
fn until_none<T>(time: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let mut last = None;
    within(time, || {
        last = attempt();
        last.is_none().then_some(())
    });
    last
}

fn finds_leader(site: &Site, run: &mut Run) -> bool {
    let views = || haproxy::views_of(haproxy::LOCAL, site);
    let finds = || views()?.iter().any(haproxy::View::has_passed).then_some(());
    if finds().is_some() {
        return true;
    }
    println!("Waits until HAProxy finds the leader.");
    if within(FIND_LEADER, finds).is_some() {
        return true;
    }
    run.complain("HAProxy finds no leader: cmonhachk-front --status shows each node");
    let denied = views()
        .unwrap_or_default()
        .iter()
        .filter_map(|view| view.denied_port(site.ui_port))
        .collect();
    run.complaints.extend(haproxy::allow(denied));
    false
}

/// If somebody else had the address, this host must not have it at the same time.
fn look_for_a_second_holder(site: &Site, elsewhere: &Holder, states: &[State], run: &mut Run) -> Outcome<()> {
    let Some(vip) = site.vip else { return Ok(()) };
    if matches!(elsewhere, Holder::Nobody | Holder::ThisHost) {
        return Ok(());
    }
    let had = format!("{} had {vip}", elsewhere.words(site.own));
    let leads = site.own.is_some_and(|own| users::leaders(site, states).contains(&own));
    match site.way {
        Way::Keepalived if leads => {
            if network::all_holders(vip, &site.nodes).is_ok_and(|holders| holders.len() > 1) {
                undo(&had, run)?;
            }
        }
        Way::Keepalived => {
            if takes_it_too(vip) {
                undo(&had, run)?;
            }
        }
        Way::Haproxy | Way::HaproxyOnly => {
            if takes_it_too(vip) {
                run.complain(format!(
                    "{had}, and now this host has it, perhaps both: run this on all nodes with the same"
                ));
                run.complain("arguments, on new ones last, and let VRRP (IP protocol 112) pass between them");
            }
        }
    }
    Ok(())
}

/// A node that has the address keeps it, or the leader has it. So if this node takes it, it does not hear the other one.
fn takes_it_too(vip: IpAddr) -> bool {
    let seconds = TAKE_ADDRESS.as_secs();
    println!("Watches for {seconds} s that this host does not take {vip}, too.");
    within(TAKE_ADDRESS, || network::interface_of(vip)).is_some()
}

/// Takes the front from this host again, because another host does not hear it.
fn undo(had: &str, run: &mut Run) -> Outcome<()> {
    remove::remove(run)?;
    run.complain(format!(
        "{had}, and both had it, so the front of this host was removed again. Let VRRP (IP protocol 112)"
    ));
    run.complain(
        "pass between the nodes, run this on the present nodes first, and --remove where the way with HAProxy is",
    );
    Ok(())
}
