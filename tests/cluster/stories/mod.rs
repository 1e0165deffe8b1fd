//! The stories, in the order they are told.

mod admission;
mod agent;
mod away;
mod double;
mod examples;
mod refusals;
mod rights;
mod scarce;
mod slices;
mod takes;
mod uninstall;
mod upgrade;

use std::future::Future;
use std::pin::Pin;

use anyhow::Result;

use crate::lab::Lab;

/// A story that asserts end states.
#[derive(Debug)]
pub struct Story {
    /// A sentence.
    pub name: &'static str,
    /// The story itself.
    pub tell: fn(&mut Lab) -> Telling<'_>,
    /// Where it is told.
    pub on: On,
}

/// Where a story is told.
#[derive(Debug, Clone, Copy)]
pub enum On {
    /// On a real cluster, and against the embedded API server with stand-ins for the rest: both must let it hold.
    Both,
    /// On a real cluster only, for what the stand-ins don't have.
    Real(&'static str),
}

/// A story being told.
pub type Telling<'lab> = Pin<Box<dyn Future<Output = Result<()>> + 'lab>>;

macro_rules! stories {
    ($($room:ident::$name:ident: $on:expr;)*) => {
        /// Every story.
        pub const ALL: &[Story] =
            &[$(Story { name: stringify!($name), tell: |lab| Box::pin($room::$name(lab)), on: $on },)*];
    };
}

stories! {
    slices::every_vf_of_the_node_is_published_with_the_node_as_its_owner: On::Both;
    slices::the_daemonset_runs_one_agent_that_gets_ready: On::Real("the stand-ins' agent is no DaemonSet's, with probes and tokens");
    examples::the_pod_of_one_vf_gets_any_vf_and_no_slice_is_written: On::Both;
    examples::the_pod_of_by_pf_gets_a_vf_of_the_port_it_names: On::Both;
    examples::the_pod_of_by_link_type_gets_a_vf_of_a_fast_ethernet_port: On::Both;
    examples::the_pod_of_by_numa_gets_one_vf_near_and_two_together: On::Both;
    examples::the_pod_of_two_vfs_distinct_pfs_gets_one_of_each_port_and_its_containers_what_they_ask_for: On::Both;
    examples::the_pods_of_static_address_reach_each_other_under_their_addresses: On::Both;
    examples::the_pod_of_vlan_gets_a_vf_with_what_its_class_grants: On::Both;
    examples::a_pod_like_a_worker_of_slinky_nodeset_gets_its_vf_in_its_namespace: On::Both;
    takes::a_container_that_ends_starts_again_with_the_same_vf: On::Both;
    takes::a_pod_whose_sandbox_dies_gets_its_vf_in_the_new_one: On::Both;
    takes::an_admin_claim_shows_a_vf_that_another_pod_has_and_leaves_it_there: On::Both;
    takes::a_claim_that_two_pods_name_is_the_first_ones_until_that_ends: On::Both;
    scarce::eight_pods_get_eight_vfs_and_the_ninth_waits_for_one_to_come_back: On::Both;
    scarce::explain_names_the_vf_that_a_claim_then_gets_and_who_holds_the_others: On::Both;
    refusals::a_claim_that_wants_what_its_class_does_not_grant_is_refused_with_a_sentence_that_names_the_field: On::Both;
    refusals::a_pod_on_the_hosts_network_is_refused_what_needs_a_namespace_of_its_own: On::Both;
    slices::a_slice_that_somebody_deletes_comes_back: On::Both;
    slices::a_slice_that_somebody_edits_is_put_right: On::Both;
    slices::slices_go_and_come_with_the_kubelet_and_pods_keep_their_vfs: On::Both;
    agent::a_deleted_agent_is_replaced_and_pods_keep_their_vfs: On::Both;
    agent::an_agent_that_stays_away_loses_its_slices_and_regains_them_and_pods_keep_their_vfs: On::Both;
    agent::a_node_without_nri_gives_its_vfs_by_the_hook_alone: On::Real("the stand-ins' runtime always has NRI");
    upgrade::a_next_version_and_rollout_undo_find_running_and_prepared_pods_and_serve_them: On::Real("a rolling update is the DaemonSet controller's, and needs two agents at a time");
    upgrade::a_claim_that_only_the_next_version_understands_waits_for_it_and_the_rest_is_served: On::Real("the agent of the stand-ins is always this version's");
    away::while_the_api_server_is_away_pods_keep_their_vfs_and_what_it_missed_comes_after: On::Real("the embedded server is in this process, and its clients with it");
    away::over_a_restart_of_the_kubelet_pods_keep_their_vfs_and_prepared_pods_start: On::Real("the stand-ins' kubelet has no init containers and no sandboxes that are slow to come");
    away::over_a_death_of_containerd_pods_keep_their_vfs_and_prepared_pods_start: On::Real("the stand-ins' runtime is in this process");
    uninstall::without_the_driver_pods_restart_their_containers_and_with_it_vfs_come_back: On::Real("it is the DaemonSet that is deleted");
    rights::the_agents_account_may_do_what_it_needs_and_nothing_else: On::Real("nobody has to log in to the embedded server, and it has no RBAC");
    rights::an_agent_can_not_write_slices_of_another_node: On::Real("the embedded server has no admission policies, and no tokens of pods");
    admission::good_parameters_are_admitted_and_each_bad_one_is_denied_with_its_sentence: On::Real("the embedded server has no admission policies");
    admission::the_largest_claims_and_classes_are_judged_within_the_cost_that_expressions_may_have: On::Real("the embedded server has no admission policies");
    admission::what_was_stored_before_the_policy_can_be_relabelled: On::Real("the embedded server has no admission policies");
    admission::a_quota_of_0_closes_a_class_to_a_namespace: On::Real("the embedded server has no quotas");
    rights::an_agent_claims_its_blocks_of_a_pool_and_none_for_another_node: On::Real("the embedded server has no admission policies, and no tokens of pods");
    double::the_embedded_api_server_answers_as_this_one_does: On::Real("it is the comparison itself");
}
