//! The stories and the shapes of hardware they run on.

mod admin;
mod archive;
mod crash;
mod cycles;
mod doctor;
mod ground;
mod life;
mod lifecycle;
mod nccl;
mod rdma;
mod reboot;
mod rights;
mod runtime;
mod scale;
mod settings;
pub mod soak;
mod vfio;

use std::future::Future;
use std::pin::Pin;

use anyhow::Result;

use crate::inside::Ground;
use crate::lab::Shape;

/// A story that asserts end states.
#[derive(Debug)]
pub struct Story {
    /// A sentence.
    pub name: &'static str,
    /// Where it runs.
    pub shape: Shape,
    /// The story itself.
    pub tell: fn(Ground) -> Telling,
}

/// A story being told.
pub type Telling = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Two PFs on two NUMA nodes behind an IOMMU.
pub const PAIR: Shape =
    Shape { name: "pair", pfs: 2, vfs: 3, numa: true, iommu: true, rdma: false, memory: 1536 };
/// Four PFs with all seven VFs each.
pub const FULL: Shape =
    Shape { name: "full", pfs: 4, vfs: 7, numa: true, iommu: false, rdma: false, memory: 1536 };

/// One PF, on a node whose RDMA devices are in one namespace each.
pub const RDMA: Shape =
    Shape { name: "rdma", pfs: 1, vfs: 3, numa: false, iommu: false, rdma: true, memory: 1536 };

/// Each is a guest of its own.
pub const SHAPES: [Shape; 3] = [PAIR, FULL, RDMA];

macro_rules! stories {
    ($($shape:ident $room:ident::$name:ident;)*) => {
        /// Every story, in the order they run.
        pub const ALL: &[Story] = &[
            $(Story { name: stringify!($name), shape: $shape, tell: |ground| Box::pin($room::$name(ground)) },)*
        ];
    };
}

stories! {
    PAIR ground::frames_between_two_vfs_of_one_pf_go_through_the_nic;
    PAIR ground::a_vf_whose_namespace_dies_comes_back_under_its_pod_name_or_as_dev_n_on_a_clash;
    PAIR ground::a_container_gets_what_a_cdi_file_says_and_is_refused_for_a_name_nobody_knows;
    PAIR ground::the_api_server_takes_the_claims_of_these_stories_as_a_real_one_would;
    PAIR rights::a_user_without_rights_sees_the_same_inventory_as_root;
    PAIR rights::the_demonstration_takes_this_machines_own_vfs_and_gives_them_back;
    PAIR doctor::the_doctor_finds_this_node_well_from_outside_and_from_a_pod_and_names_what_is_broken;
    PAIR archive::containerd_imports_the_archive_and_runs_the_binary_in_it;
    PAIR lifecycle::two_pods_with_vfs_of_one_pf_ping_each_other_and_give_them_back_as_they_were;
    PAIR lifecycle::a_late_second_stop_of_an_old_sandbox_takes_nothing_from_the_new_one;
    PAIR lifecycle::a_namespace_that_dies_before_stop_still_gives_its_vf_back_as_it_was;
    PAIR lifecycle::a_vf_that_came_back_under_a_foreign_name_gets_its_own_again;
    PAIR lifecycle::a_pod_with_two_claims_can_lose_one_before_the_other;
    PAIR crash::an_agent_killed_between_prepare_and_sandbox_attaches_after_its_restart;
    PAIR crash::no_container_starts_without_its_vf_when_the_agent_missed_the_sandbox;
    PAIR crash::a_container_starts_with_its_vf_while_no_agent_runs;
    PAIR crash::a_container_is_refused_when_its_vf_is_gone;
    PAIR crash::no_container_starts_without_its_vf_while_no_agent_runs;
    PAIR runtime::crun_starts_a_container_with_its_vf_or_not_at_all_while_no_agent_runs;
    PAIR runtime::a_restart_of_containerd_takes_no_vf_and_prepared_pods_start_after_it;
    PAIR runtime::on_containerd_1_7_two_pods_ping_each_other_and_give_their_vfs_back_as_they_were;
    PAIR vfio::a_container_reads_its_vfs_configuration_through_vfio_and_the_vf_returns_as_it_was;
    PAIR vfio::a_vf_whose_iommu_group_others_use_is_refused_with_their_names;
    PAIR life::a_random_life_on_real_vfs_leaves_nothing_behind;
    PAIR soak::a_soak_of_pods_on_containerd_leaves_what_the_agent_holds_flat;
    PAIR reboot::after_a_loss_of_power_pods_start_with_their_vfs_once_these_are_prepared_again;
    FULL ground::four_pfs_with_seven_vfs_each_lie_on_two_numa_nodes;
    FULL scale::all_28_vfs_of_4_pfs_are_in_pods_at_once_and_all_come_back;
    FULL admin::netdevsim_takes_every_setting_and_ip_says_the_same_of_it;
    FULL admin::what_is_sent_for_a_setting_is_what_this_ip_sends_byte_by_byte;
    FULL admin::igb_takes_what_the_docs_say_and_refuses_the_rest_with_these_errors;
    FULL admin::an_admin_mac_of_igb_is_the_vfs_own_after_a_bind_and_binds_it_until_zero_is_set;
    FULL settings::settings_of_claims_hold_while_their_pods_run_and_are_as_before_after_them;
    FULL settings::a_setting_that_igb_refuses_is_named_with_its_vf_and_nothing_stays_of_the_claim;
    FULL settings::settings_of_an_agent_that_was_killed_are_taken_back_by_the_next;
    PAIR rdma::where_rdma_devices_are_shared_pods_have_the_nodes_of_theirs_and_a_verbs_ping_runs_on_the_host;
    RDMA nccl::a_container_is_told_its_own_rdma_devices_and_reads_where_they_are_from_a_file_it_can_not_change;
    RDMA rdma::what_moves_a_device_is_what_this_rdma_sends_byte_by_byte;
    RDMA rdma::rdma_devices_of_pods_started_crosswise_are_in_them_and_containers_have_their_numbers;
    RDMA rdma::containers_of_an_rdma_device_may_lock_all_memory_whoever_their_user_is;
    RDMA rdma::an_rdma_device_whose_namespace_dies_is_on_the_host_again_with_its_vf;
    RDMA rdma::an_rdma_device_comes_back_when_the_agent_was_killed_while_its_pod_ran;
    RDMA rdma::no_container_starts_without_its_rdma_device_while_no_agent_runs;
    FULL cycles::a_hundred_pods_one_after_the_other_leave_nothing_behind;
}
