//! cmonhachk-front on three nodes that are booted for it, each with the responder, a UI and
//! the real HAProxy and keepalived. A switch connects them and a client.

mod address;
mod alone;
mod article;
mod followed;
pub mod https;
mod leader;
mod nightly;
mod operator;
mod promises;
mod refusals;
mod runs;
mod settings;
pub mod site;
mod status;
pub mod users;

use promises::{promises, try_each};
use site::Site;

use crate::versions::{Versions, on_each_system};

on_each_system! {
    the_address_is_on_a_node_whose_haproxy_runs_and_moves_only_if_it_must,
    no_user_waits_long_for_a_leader_whose_machine_is_dead,
}

fn the_address_is_on_a_node_whose_haproxy_runs_and_moves_only_if_it_must(versions: &Versions) {
    try_each(
        &Site::with_fronts(versions),
        promises![
            address::sessions_and_the_address_outlive_a_reload_of_keepalived_and_an_update_of_haproxy,
            address::users_who_wait_while_haproxy_starts_are_sent_to_the_leader_only,
            address::a_node_whose_haproxy_loses_its_worker_gives_up_the_address_and_does_not_take_it_back,
            address::a_node_whose_haproxy_loses_its_master_gives_up_the_address,
            address::a_node_whose_haproxy_is_killed_with_all_that_its_unit_runs_gives_up_the_address,
            address::a_node_that_is_cut_off_gives_up_the_address_and_does_not_take_it_back,
            address::no_node_gives_up_the_address_for_a_stranger_with_the_same_router_id,
            followed::at_a_boot_the_address_comes_whichever_of_haproxy_and_keepalived_is_first,
            followed::a_run_repairs_the_file_and_the_folder_that_keepalived_follows,
        ],
    );
}

fn no_user_waits_long_for_a_leader_whose_machine_is_dead(versions: &Versions) {
    try_each(
        &Site::with_fronts(versions),
        promises![
            leader::of_200_connections_around_the_death_of_the_leaders_machine_none_hangs_or_stays_open_in_haproxy,
            leader::of_200_connections_around_a_standstill_of_the_leaders_machine_none_hangs_or_stays_open_in_haproxy,
            leader::nobody_waits_long_for_a_dead_leader_while_there_is_no_other,
        ],
    );
}

#[test]
fn without_haproxy_the_address_is_on_the_leader() {
    try_without_haproxy(&Versions::usual());
}

fn try_without_haproxy(versions: &Versions) {
    try_each(
        &Site::boot(versions),
        promises![
            alone::three_runs_put_the_address_on_the_leader_and_users_on_its_own_port,
            alone::a_second_run_changes_nothing_and_status_is_well,
            alone::an_operators_own_instance_goes_on,
            alone::the_address_follows_the_leadership_and_the_old_session_ends,
            alone::no_script_runs_as_root,
            alone::one_lost_check_moves_nobody,
            alone::a_node_whose_ui_is_closed_does_not_have_the_address,
            alone::if_nobody_leads_the_first_node_has_the_address_and_its_ui_can_be_reached,
            alone::a_restart_or_a_reload_of_keepalived_brings_the_address_back_to_the_leader,
            alone::the_way_with_haproxy_is_refused_until_this_one_is_removed_everywhere,
            alone::a_downgrade_to_a_version_without_the_program_takes_the_address_away,
            alone::where_the_other_way_is_not_seen_the_address_is_not_left_on_two_nodes,
            alone::the_address_may_be_of_ipv6,
        ],
    );
}

#[test]
fn an_operators_own_settings_are_used_and_serve_https() {
    try_https(&Versions::usual());
}

fn try_https(versions: &Versions) {
    try_each(
        &Site::boot(versions),
        promises![
            https::a_host_of_its_own_serves_https_by_the_example,
            https::the_ui_is_told_the_users_own_address_and_no_other,
            https::http_is_sent_to_https,
            https::a_reload_refuses_nobody,
            https::users_are_on_the_new_leader_after_a_move_and_sessions_on_the_old_one_have_ended,
            https::without_a_leader_users_are_held_for_two_seconds_and_told_so,
            https::other_files_in_the_folder_are_left_alone_and_it_may_be_missing,
            https::a_file_that_haproxy_refuses_fails_the_reload_and_users_do_not_notice,
            https::a_start_with_such_a_file_is_tried_once_a_second_until_it_is_mended,
            https::a_time_limit_of_checks_in_the_folder_is_used_after_a_restart,
            https::neither_a_run_nor_a_removal_of_the_front_touches_the_folder,
        ],
    );
}

#[test]
fn a_front_is_refused_with_the_cause_or_set_up() {
    try_each(
        &Site::boot(&Versions::usual()),
        promises![
            refusals::it_refuses_with_the_cause_before_it_changes_anything,
            settings::a_dry_run_changes_nothing,
            settings::at_its_end_it_asks_for_the_leader,
            settings::a_host_that_is_no_node_gets_haproxy_without_an_address,
        ],
    );
}

#[test]
fn a_front_is_set_up_looked_at_and_repaired() {
    try_each(
        &Site::boot(&Versions::usual()),
        promises![
            status::without_a_front_it_shows_this_nodes_role,
            settings::three_runs_with_the_nodes_in_any_order_lead_users_to_the_leader,
            settings::a_second_run_changes_nothing_and_the_services_come_with_a_boot,
            settings::selinux_can_give_haproxy_a_domain_of_its_own,
            status::each_node_shows_the_roles_who_has_the_address_and_where_users_get_to,
            status::prometheus_sees_the_nodes_as_haproxy_does,
            status::it_names_a_front_that_does_not_run,
            status::it_names_a_node_without_a_front,
            status::it_needs_no_root,
            status::it_names_two_holders_of_the_address_and_one_that_is_no_node,
            status::it_shows_no_text_of_a_node_but_a_state,
            settings::it_says_where_users_get_to_only_after_it_has_been_there,
            status::a_repair_needs_no_other_node,
            status::a_new_setting_needs_every_node_and_a_dry_run_shows_it_all_the_same,
            status::it_names_nodes_that_do_not_know_their_role_and_this_one_first,
            status::it_says_what_to_do_after_the_port_of_the_new_leader_went_to_another_program,
            settings::the_last_removal_says_that_nobody_has_the_address,
        ],
    );
}

#[test]
fn the_nodes_and_the_address_may_change() {
    try_each(
        &Site::boot(&Versions::usual()),
        promises![
            settings::a_new_node_that_the_others_do_not_know_is_told_so_and_serves_when_they_do,
            settings::a_node_is_taken_out_first_there_and_then_elsewhere,
            settings::the_nodes_and_the_address_may_be_of_ipv6,
            settings::the_address_may_be_in_a_network_without_the_nodes_addresses,
        ],
    );
}

#[test]
fn a_front_that_is_denied_its_port_is_no_success() {
    let site = Site::boot(&Versions::usual());
    runs::only_the_first_node_has_a_front_that_is_denied_low_ports(&site);
    try_each(
        &site,
        promises![
            runs::a_reload_that_cannot_take_its_port_is_no_success_and_leaves_what_was_there,
            runs::a_run_that_is_killed_does_not_become_the_former_configuration,
            runs::status_names_a_file_that_keeps_the_address_away,
            runs::a_start_that_cannot_take_its_port_is_no_success_and_in_nobodys_way,
        ],
    );
}

#[test]
fn an_upgrade_from_version_0_1_0_moves_the_file_and_not_the_address() {
    followed::an_upgrade_from_version_0_1_0_moves_the_file_and_not_the_address(&Versions::usual());
}

#[test]
fn what_an_operator_has_is_neither_changed_nor_restarted() {
    operator::what_an_operator_has_is_neither_changed_nor_restarted(&Versions::usual());
}
