//! What takes long and seldom breaks: tests/run.sh tries it only at night.

use super::promises::{promises, try_each};
use super::site::Site;
use super::{article, followed, operator, runs};
use crate::versions::{System, Versions, on_each_system};

on_each_system! {
    whatever_is_stopped_killed_or_reloaded_the_address_follows_haproxy,
}

fn whatever_is_stopped_killed_or_reloaded_the_address_follows_haproxy(versions: &Versions) {
    followed::whatever_is_stopped_killed_or_reloaded_the_address_follows_haproxy(&Site::with_fronts(versions));
}

#[test]
fn a_site_as_the_article_has_it_moves_step_by_step_and_loses_no_user() {
    article::a_site_as_the_article_has_it_moves_step_by_step_and_loses_no_user(&Site::boot(&Versions::usual()));
}

#[test]
fn the_next_run_finishes_one_that_was_interrupted_and_two_wait_for_each_other() {
    try_each(
        &Site::boot(&Versions::usual()),
        promises![
            runs::the_next_run_finishes_one_that_was_interrupted,
            runs::the_next_removal_finishes_one_that_was_interrupted,
            runs::a_removal_that_cannot_stop_a_service_is_no_success,
            runs::of_two_runs_at_once_one_waits_for_the_other,
        ],
    );
}

/// What front.rs tries on this machine's system.
#[test]
fn what_an_operator_has_is_neither_changed_nor_restarted_on_debian_13() {
    if let Some(versions) = Versions::on(System::Trixie) {
        operator::what_an_operator_has_is_neither_changed_nor_restarted(&versions);
    }
}

#[test]
fn without_haproxy_the_address_is_on_the_leader_on_debian_13() {
    if let Some(versions) = Versions::on(System::Trixie) {
        super::try_without_haproxy(&versions);
    }
}

#[test]
fn an_operators_own_settings_are_used_and_serve_https_on_debian_13() {
    if let Some(versions) = Versions::on(System::Trixie) {
        super::try_https(&versions);
    }
}

#[test]
fn an_upgrade_from_version_0_1_0_moves_the_file_and_not_the_address_on_debian_13() {
    if let Some(versions) = Versions::on(System::Trixie) {
        followed::an_upgrade_from_version_0_1_0_moves_the_file_and_not_the_address(&versions);
    }
}
