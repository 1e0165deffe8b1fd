//! What users and administrators write: claims, their parameters, address pools, expressions.

use crate::engine::targets;

targets! {
    parameters, 1 << 17;
    claims, 1 << 17;
    address_pools, 1 << 17;
    // Programs of patterns: the regex crate stops at 10 MiB.
    expressions, 1 << 25;
}

mod hold {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::LazyLock;

    use k8s_openapi::api::resource::v1::ResourceClaim;
    use serde_json::Value;
    use sriov_dra::address::{Book, Page, Parent, PoolSpec, assign, read};
    use sriov_dra::claim::{ClaimError, Source, compile, decode_parameters};
    use sriov_dra::policy::AttributeValue;
    use sriov_dra::policy::cel::{DeviceFacts, Selector, conjuncts};

    /// A sentence for people: one line of bearable length, whatever the input.
    fn is_a_sentence(text: &str, input: &[u8]) {
        assert!(!text.is_empty());
        assert!(text.len() <= 8192 + 64 * input.len(), "{} bytes of sentence", text.len());
    }

    pub fn parameters(input: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(input) else { return };
        let (class, claim) =
            (decode_parameters(&value, Source::Class), decode_parameters(&value, Source::Claim));
        if let Ok(decoded) = &claim {
            assert_eq!(class.as_ref(), Ok(decoded), "a class may say what a claim may say");
        }
        for faults in [class.err(), claim.err()].into_iter().flatten() {
            assert!(!faults.is_empty());
            is_a_sentence(&faults.to_string(), input);
        }
    }

    pub fn claims(input: &[u8]) {
        let Ok(claim) = serde_json::from_slice::<ResourceClaim>(input) else { return };
        let uid = claim.metadata.uid.clone().unwrap_or_default();
        match compile(&claim, "sriov-dra.io", "node-a", &uid, None) {
            Ok(spec) => {
                assert!(spec.id.uid == uid && !spec.results.is_empty());
                let mut used: Vec<_> =
                    spec.results.iter().filter(|result| !result.admin_access).map(|r| r.pci).collect();
                let count = used.len();
                used.sort();
                used.dedup();
                assert_eq!(used.len(), count, "a VF is given twice");
                assert!(spec.pod.is_some() || count == 0);
                spec.check_by_hook(&Default::default()).map_err(drop).unwrap_or_default();
            }
            Err(error) => {
                is_a_sentence(&error.to_string(), input);
                assert!(!matches!(error, ClaimError::Recreated { .. }));
            }
        }
    }

    pub fn address_pools(input: &[u8]) {
        let Ok(spec) = serde_json::from_slice::<Value>(input) else { return };
        if let Ok(parsed) = serde_json::from_value::<PoolSpec>(spec.clone()) {
            let written = serde_json::to_value(&parsed).unwrap();
            assert_eq!(serde_json::from_value::<PoolSpec>(written).unwrap(), parsed);
        }
        let pool = match read("pool", "uid", &spec) {
            Ok(pool) => pool,
            Err(faults) => return is_a_sentence(&faults.to_string(), input),
        };
        let pf = Parent {
            pci: "0000:81:00.0".parse().unwrap(),
            name: Some("ens1f0".into()),
            rail: Some(1),
            addresses: vec!["10.0.0.5/27".parse().unwrap(), "fd00:11::5/64".parse().unwrap()],
        };
        let first = pool.first_try("node-a", &pf);
        let last = pool.blocks().saturating_sub(1);
        let mut given = BTreeMap::new();
        for index in BTreeSet::from([0, 1, first, last, last / 2]) {
            let Some(block) = pool.block(index, "node-a", &pf) else { continue };
            assert!(pool.still_has(&block));
            let written = serde_json::to_string(&block).unwrap();
            assert_eq!(serde_json::from_str::<sriov_dra::address::Block>(&written).unwrap(), block);
            for vf in [0, 1, 127, u32::MAX] {
                let Ok(assigned) = assign(&pool, &block, &pf, vf) else { continue };
                for address in assigned.addresses {
                    assert!(
                        block.cidrs.iter().any(|cidr| cidr.contains(&address.addr())),
                        "{address} is not of the block"
                    );
                    assert!(
                        !pf.addresses.iter().any(|own| own.addr() == address.addr()),
                        "{address} is the PF's own"
                    );
                    assert!(!assigned.gateways.contains(&address.addr()), "{address} is the gateway's");
                    let other = given.insert(address.addr(), (index, vf));
                    assert!(other.is_none(), "{address} is given to {other:?} and {:?}", (index, vf));
                }
            }
        }
        let _ = pool.parents_block("node-a", &pf).map(|block| assign(&pool, &block, &pf, 0));
        assert_eq!(pool.refuses(&pool), Ok(()));
        let page = Page { uid: "uid".into(), spec, ..Page::default() };
        let book = Book { pools: BTreeMap::from([("pool".to_owned(), page)]) };
        assert!(book.assign("pool", &pf, 0).is_err(), "the PF has no block");
    }

    static DEVICE: LazyLock<DeviceFacts> = LazyLock::new(|| {
        let attributes = [
            ("sriov-dra.io/pfName", AttributeValue::String("ens1f0".into())),
            ("sriov-dra.io/vfIndex", AttributeValue::Int(3)),
            ("sriov-dra.io/rdma", AttributeValue::Bool(true)),
            ("fw/version", AttributeValue::Version("22.9.2".into())),
        ];
        let attributes = attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let capacity = BTreeMap::from([("bandwidth".to_owned(), "25G".to_owned())]);
        DeviceFacts::new("sriov-dra.io", &attributes, &capacity, true).unwrap()
    });

    pub fn expressions(input: &[u8]) {
        let expression = String::from_utf8_lossy(input);
        let parts = conjuncts(&expression);
        assert!(parts.iter().map(|part| part.len()).sum::<usize>() <= expression.len());
        let selector = match Selector::compile(&expression) {
            Ok(selector) => selector,
            Err(error) => {
                let text = error.to_string();
                assert!(!text.contains("broke down"), "{text}");
                return;
            }
        };
        assert_eq!(selector.expression(), expression);
        selector.names();
        let _ = selector.test(&DEVICE);
    }
}
