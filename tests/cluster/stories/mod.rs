//! The stories, in the order they are told.

mod agent;
mod double;
mod examples;
mod refusals;
mod rights;
mod scarce;
mod slices;
mod takes;

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
}

/// A story being told.
pub type Telling<'lab> = Pin<Box<dyn Future<Output = Result<()>> + 'lab>>;

macro_rules! stories {
    ($($room:ident::$name:ident;)*) => {
        /// Every story.
        pub const ALL: &[Story] =
            &[$(Story { name: stringify!($name), tell: |lab| Box::pin($room::$name(lab)) },)*];
    };
}

stories! {
    slices::the_daemonset_publishes_every_vf_of_the_node_as_its_owner;
    examples::the_pod_of_one_vf_gets_any_vf_and_no_slice_is_written;
    examples::the_pod_of_by_pf_gets_a_vf_of_the_port_it_names;
    examples::the_pod_of_by_link_type_gets_a_vf_of_a_fast_ethernet_port;
    examples::the_pod_of_by_numa_gets_one_vf_near_and_two_together;
    examples::the_pod_of_two_vfs_distinct_pfs_gets_one_of_each_port_and_its_containers_what_they_ask_for;
    examples::the_pods_of_static_address_reach_each_other_under_their_addresses;
    examples::a_pod_like_a_worker_of_slinky_nodeset_gets_its_vf_in_its_namespace;
    takes::a_container_that_ends_starts_again_with_the_same_vf;
    takes::a_pod_whose_sandbox_dies_gets_its_vf_in_the_new_one;
    takes::an_admin_claim_shows_a_vf_that_another_pod_has_and_leaves_it_there;
    takes::a_claim_that_two_pods_name_is_the_first_ones_until_that_ends;
    scarce::eight_pods_get_eight_vfs_and_the_ninth_waits_for_one_to_come_back;
    refusals::a_claim_with_a_faulty_config_is_refused_with_a_sentence_that_names_the_field;
    refusals::a_pod_on_the_hosts_network_is_refused_what_needs_a_namespace_of_its_own;
    slices::a_slice_that_somebody_deletes_comes_back;
    slices::a_slice_that_somebody_edits_is_put_right;
    slices::slices_go_and_come_with_the_kubelet_and_pods_keep_their_vfs;
    agent::a_deleted_agent_is_replaced_and_pods_keep_their_vfs;
    agent::a_rolling_update_hands_over_while_pods_run_start_and_end;
    agent::a_node_without_nri_gives_its_vfs_by_the_hook_alone;
    rights::the_agents_account_may_do_what_it_needs_and_nothing_else;
    rights::an_agent_can_not_write_slices_of_another_node;
    double::the_embedded_api_server_answers_as_this_one_does;
}
