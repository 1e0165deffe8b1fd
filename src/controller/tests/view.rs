//! Own writes against late events and lists.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

fn slice(name: &str, version: &str) -> ResourceSlice {
    ResourceSlice {
        metadata: ObjectMeta {
            name: Some(name.into()),
            uid: Some(format!("uid of {name}")),
            resource_version: Some(version.into()),
            ..ObjectMeta::default()
        },
        ..ResourceSlice::default()
    }
}

fn versions(view: &View) -> Vec<(String, String)> {
    view.slices().iter().map(|slice| (name(slice), version_of(slice))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

fn listed(slices: &[ResourceSlice], now: Instant) -> View {
    let mut view = View::default();
    view.list_begins(now);
    slices.iter().for_each(|slice| view.listed(slice.clone()));
    view.list_ends(now);
    view
}

#[test]
fn nothing_is_complete_before_the_first_list_is() {
    let mut view = View::default();
    view.list_begins(Instant::now());
    view.listed(slice("a", "1"));
    assert!(!view.is_complete());
    assert_eq!(view.slices(), []);
    view.list_ends(Instant::now());
    assert!(view.is_complete());
    assert_eq!(view.slices().len(), 1);
}

#[test]
fn an_own_write_is_known_at_once_and_older_events_do_not_undo_it() {
    let now = Instant::now();
    let mut view = listed(&[slice("a", "9")], now);
    view.wrote(slice("a", "12"), now);
    view.wrote(slice("b", "13"), now);
    view.seen(slice("a", "10"), now);
    assert_eq!(versions(&view), pairs(&[("a", "12"), ("b", "13")]));
    view.seen(slice("a", "14"), now);
    view.gone(&slice("b", "15"));
    assert_eq!(versions(&view), pairs(&[("a", "14")]));
}

#[test]
fn a_slice_deleted_here_does_not_come_back_by_a_late_event() {
    let now = Instant::now();
    let mut view = listed(&[slice("a", "9")], now);
    view.deleted("a", now);
    view.seen(slice("a", "8"), now);
    assert_eq!(view.slices(), []);
    view.gone(&slice("a", "11"));
    assert_eq!(view.slices(), []);
}

#[test]
fn a_list_that_began_before_an_own_write_does_not_hide_it_and_a_later_one_is_right() {
    let start = Instant::now();
    let later = start + Duration::from_secs(1);
    let mut view = listed(&[slice("old", "1")], start);
    view.list_begins(start);
    view.wrote(slice("new", "5"), later);
    view.deleted("old", later);
    view.listed(slice("old", "1"));
    view.list_ends(later);
    assert_eq!(versions(&view), pairs(&[("new", "5")]));

    view.list_begins(later + Duration::from_secs(1));
    view.list_ends(later + Duration::from_secs(1));
    assert_eq!(view.slices(), [], "somebody deleted it while nobody watched");
}
