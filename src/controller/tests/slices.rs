//! Plans: what is written, and that a second round writes nothing.

use k8s_openapi::api::resource::v1::DeviceTaint;

use super::*;

fn pool() -> PoolIdentity {
    PoolIdentity { driver: "sriov-dra.io".into(), node: "node-1".into(), node_uid: "uid-1".into() }
}

fn some(count: usize) -> Vec<Device> {
    (0..count).map(|index| Device { name: format!("d{index:04}"), ..Device::default() }).collect()
}

/// What the server has after the actions.
fn after(existing: &[ResourceSlice], actions: &Actions) -> Vec<ResourceSlice> {
    let mut slices = existing.to_vec();
    slices.retain(|slice| actions.delete.iter().all(|gone| Some(&gone.name) != slice.metadata.name.as_ref()));
    for update in &actions.update {
        let slot = slices.iter_mut().find(|slice| slice.metadata.name == update.metadata.name).unwrap();
        *slot = update.clone();
    }
    for (number, create) in actions.create.iter().enumerate() {
        let mut slice = create.clone();
        let prefix = slice.metadata.generate_name.take().unwrap();
        slice.metadata.name = Some(format!("{prefix}{number}"));
        slice.metadata.uid = Some(format!("uid of {prefix}{number}"));
        slices.push(slice);
    }
    slices.sort_by_key(|slice| slice.metadata.name.clone());
    slices
}

fn publish(existing: &[ResourceSlice], desired: &[Device]) -> (Actions, Vec<ResourceSlice>) {
    let actions = plan(existing, desired, &pool(), Limits::default());
    let slices = after(existing, &actions);
    let again = plan(&slices, desired, &pool(), Limits::default());
    assert!(again.is_empty(), "a second round still writes: {again:?}");
    (actions, slices)
}

fn counts(actions: &Actions) -> (usize, usize, usize, i64) {
    (actions.delete.len(), actions.update.len(), actions.create.len(), actions.generation)
}

#[test]
fn devices_with_taints_go_sixty_four_to_a_slice() {
    let mut devices = some(129);
    let taint = DeviceTaint { key: "a/b".into(), effect: "NoSchedule".into(), ..DeviceTaint::default() };
    devices[0].taints = Some(vec![taint]);
    let (actions, slices) = publish(&[], &devices);
    assert_eq!(counts(&actions), (0, 0, 3, 1));
    let sizes: Vec<usize> = slices.iter().map(|s| s.spec.devices.as_ref().unwrap().len()).collect();
    assert_eq!(sizes, [64, 64, 1]);
}

#[test]
fn list_attributes_count_as_rich_too() {
    let mut devices = some(65);
    let list = DeviceAttribute { ints: Some(vec![1, 2]), ..DeviceAttribute::default() };
    devices[3].attributes = Some([("x".to_owned(), list)].into());
    assert_eq!(counts(&publish(&[], &devices).0), (0, 0, 2, 1));
}

#[test]
fn two_changed_slices_are_a_new_generation_of_all() {
    let (_, slices) = publish(&[], &some(300));
    let mut devices = some(300);
    devices[0].all_nodes = Some(false);
    devices[299].all_nodes = Some(false);
    assert_eq!(counts(&publish(&slices, &devices).0), (0, 3, 0, 2));
}

#[test]
fn reordered_devices_are_published_in_the_new_order() {
    let (_, slices) = publish(&[], &some(200));
    let devices: Vec<Device> = some(200).into_iter().rev().collect();
    let (actions, slices) = publish(&slices, &devices);
    assert_eq!(counts(&actions), (0, 2, 0, 2));
    assert_eq!(slices[0].spec.devices.as_ref().unwrap()[0].name, "d0199");
}

#[test]
fn slices_that_a_broken_rewrite_left_behind_are_finished_at_its_generation() {
    let (_, old) = publish(&[], &some(300));
    let mut devices = some(300);
    devices[0].all_nodes = Some(false);
    devices[299].all_nodes = Some(false);
    let (_, new) = publish(&old, &devices);
    let broken = [new[0].clone(), old[1].clone(), old[2].clone()];
    assert_eq!(counts(&publish(&broken, &devices).0), (0, 2, 0, 2));
    // If what the server has of the newer generation is wrong as well, that one can't be trusted.
    let broken = [new[0].clone(), old[1].clone(), old[2].clone()];
    assert_eq!(counts(&publish(&broken, &some(300)).0), (0, 3, 0, 3));
}

#[test]
fn the_time_of_a_taint_is_the_servers() {
    let tainted = |time: Option<&str>| {
        let mut devices = some(1);
        let time_added = time.map(|t| serde_json::from_value(serde_json::json!(t)).unwrap());
        devices[0].taints = Some(vec![DeviceTaint {
            key: "a/b".into(),
            effect: "NoSchedule".into(),
            time_added,
            ..DeviceTaint::default()
        }]);
        devices
    };
    let (_, slices) = publish(&[], &tainted(Some("2026-01-01T00:00:00Z")));
    assert!(plan(&slices, &tainted(None), &pool(), Limits::default()).is_empty());
    let mut changed = tainted(None);
    changed[0].all_nodes = Some(false);
    let (actions, _) = publish(&slices, &changed);
    let taint = &actions.update[0].spec.devices.as_ref().unwrap()[0].taints.as_ref().unwrap()[0];
    assert!(taint.time_added.is_some(), "a rewrite keeps when the taint was added");
}

#[test]
fn a_new_owner_alone_is_no_new_generation() {
    let (_, slices) = publish(&[], &some(300));
    let recreated = PoolIdentity { node_uid: "uid-2".into(), ..pool() };
    let actions = plan(&slices, &some(300), &recreated, Limits::default());
    assert_eq!(counts(&actions), (0, 3, 0, 1));
    let owners = actions.update[0].metadata.owner_references.as_ref().unwrap();
    assert_eq!(owners.iter().map(|o| o.uid.as_str()).collect::<Vec<_>>(), ["uid-2"]);
}

#[test]
fn of_two_slices_for_one_index_the_same_one_stays_whoever_decides() {
    let (_, slices) = publish(&[], &some(3));
    let mut twin = slices[0].clone();
    twin.metadata.name = Some("00000-sriov-dra.io-node-1-zzzzz".into());
    for existing in [[slices[0].clone(), twin.clone()], [twin.clone(), slices[0].clone()]] {
        let actions = plan(&existing, &some(3), &pool(), Limits::default());
        assert_eq!(counts(&actions), (1, 0, 0, 1));
        assert_eq!(Some(&actions.delete[0].name), twin.metadata.name.as_ref());
    }
}

#[test]
fn slices_of_another_pool_name_go_and_of_another_driver_stay() {
    let (_, slices) = publish(&[], &some(3));
    let mut pool_of_old = slices[0].clone();
    pool_of_old.metadata.name = Some("00000-old".into());
    pool_of_old.spec.pool.name = "old".into();
    pool_of_old.spec.pool.generation = 50;
    let mut foreign = slices[0].clone();
    foreign.metadata.name = Some("00001-foreign".into());
    foreign.spec.driver = "other.example".into();
    let actions = plan(&[slices[0].clone(), pool_of_old, foreign], &some(3), &pool(), Limits::default());
    assert_eq!(counts(&actions), (1, 0, 0, 1));
    assert_eq!(actions.delete[0].name, "00000-old");
}

#[test]
fn the_last_generation_there_is_makes_the_pool_start_afresh() {
    let (_, mut slices) = publish(&[], &some(3));
    slices[0].spec.pool.generation = i64::MAX;
    let actions = plan(&slices, &some(3), &pool(), Limits::default());
    assert_eq!((actions.delete.len(), actions.update.len(), actions.create.len()), (1, 0, 0));
}

#[test]
fn only_names_with_an_index_of_five_digits_are_ours() {
    assert_eq!(index_of("00000-sriov-dra.io-node-1-abcde"), Some(0));
    assert_eq!(index_of("0001f-x"), Some(31));
    for name in ["junk", "0000-x", "000000-x", "0000G-x", "0000A-x", "00001", ""] {
        assert_eq!(index_of(name), None, "{name}");
    }
}

#[test]
fn a_device_that_joins_a_full_slice_moves_the_later_ones() {
    let mut devices = some(256);
    let newcomer = Device { name: "new".into(), ..Device::default() };
    let (_, slices) = publish(&[], &devices);
    devices.insert(5, newcomer);
    let (actions, slices) = publish(&slices, &devices);
    assert_eq!(counts(&actions), (0, 2, 1, 2));
    let names: Vec<&str> =
        slices.iter().flat_map(|s| s.spec.devices.iter().flatten()).map(|d| d.name.as_str()).collect();
    assert_eq!(names, devices.iter().map(|d| d.name.as_str()).collect::<Vec<_>>());
}

/// No random numbers from outside: the same offers on every machine.
#[test]
fn whatever_is_offered_next_two_rounds_never_write_twice_and_the_order_holds() {
    let mut state = 7u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut slices = Vec::new();
    let mut generation = 0;
    for _ in 0..300 {
        let size = 1 + random(400) as usize;
        let gap = 1 + random(9) as usize;
        let desired: Vec<Device> = some(size).into_iter().filter(|_| random(10) as usize >= gap).collect();
        let (actions, next) = publish(&slices, &desired);
        assert!(actions.generation >= generation);
        let names: Vec<&str> =
            next.iter().flat_map(|s| s.spec.devices.iter().flatten()).map(|d| d.name.as_str()).collect();
        assert_eq!(names, desired.iter().map(|d| d.name.as_str()).collect::<Vec<_>>());
        assert_eq!(next.len(), desired.len().div_ceil(128).max(1));
        assert!(next.iter().all(|slice| slice.spec.pool.generation == actions.generation));
        generation = actions.generation;
        slices = next;
    }
}
