//! What a container runtime sends: NRI, and the state and bundle that an OCI runtime hands to its hooks.

use crate::engine::targets;

targets! {
    // A reader's buffer and one message of some length.
    nri_streams, 1 << 17;
    nri_requests, 1 << 16;
    oci_states, 1 << 16;
    oci_bundles, 1 << 16;
}

mod hold {
    use std::sync::{Arc, LazyLock};
    use std::time::Duration;

    use prost::Message;
    use sriov_dra::attach::bundle::Bundle;
    use sriov_dra::attach::hook::{config_of, process_of, sandbox_of};
    use sriov_dra::attach::nri::decoders::{answer, put_together, serve, taken_apart};
    use sriov_dra::attach::nri::proto::api;
    use sriov_dra::attach::nri::{Adjustment, Container, PodEvents, Sandbox};
    use tokio::runtime::{Builder, Runtime};

    static TOKIO: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());
    /// For what takes a millisecond.
    const SOON: Duration = Duration::from_secs(20);

    /// Agrees with everything, and gives a container what it has.
    struct Agrees;

    impl PodEvents for Agrees {
        async fn run(&self, _: Sandbox) -> Result<(), String> {
            Ok(())
        }

        async fn stop(&self, _: Sandbox) -> Result<(), String> {
            Ok(())
        }

        async fn remove(&self, _: Sandbox) -> Result<(), String> {
            Ok(())
        }

        async fn create_container(&self, _: Sandbox, container: Container) -> Result<Adjustment, String> {
            Ok(Adjustment { devices: container.devices, memlock: container.memlock, ..Adjustment::default() })
        }

        async fn synchronize(&self, _: Vec<Sandbox>, _: Vec<Container>) {}
    }

    pub fn nri_streams(stream: &[u8]) {
        let (pieces, outcome) = taken_apart(stream, stream.len());
        let inside: usize = pieces.iter().map(|piece| piece.data.len()).sum();
        assert!(inside <= stream.len());
        for read in [1, 7, 4096] {
            let (same, same_outcome) = taken_apart(stream, read);
            assert_eq!(
                (same, same_outcome.is_ok()),
                (pieces.clone(), outcome.is_ok()),
                "read {read} bytes at a time"
            );
        }
        let (again, outcome_again) = taken_apart(&put_together(&pieces), 4096);
        outcome_again.unwrap();
        assert_eq!(again, pieces);
        let served =
            TOKIO.block_on(async { tokio::time::timeout(SOON, serve(Arc::new(Agrees), stream)).await });
        let served = served.expect("a runtime that hung up is served no longer");
        // A write into a connection that the plugin has ended breaks it for the runtime, not for the plugin.
        assert_eq!(served.is_ok(), outcome.is_ok(), "{served:?} and {outcome:?}");
    }

    fn stays<M: Message + Default + PartialEq + std::fmt::Debug>(payload: &[u8]) {
        if let Ok(message) = M::decode(payload) {
            assert_eq!(M::decode(message.encode_to_vec().as_slice()).unwrap(), message);
        }
    }

    const METHODS: [&str; 10] = [
        "Configure",
        "Synchronize",
        "Shutdown",
        "RunPodSandbox",
        "StopPodSandbox",
        "RemovePodSandbox",
        "StopContainer",
        "CreateContainer",
        "StateChange",
        "Unheard",
    ];

    /// The method's number, and the request.
    pub fn nri_requests(input: &[u8]) {
        let Some((number, payload)) = input.split_first() else { return };
        let method = METHODS[usize::from(*number) % METHODS.len()];
        let answer = TOKIO.block_on(async {
            tokio::time::timeout(SOON, answer(Arc::new(Agrees), method, payload.to_vec())).await
        });
        match (answer.expect("an answer in time"), method) {
            (Ok(answer), "Configure") => drop(api::ConfigureResponse::decode(answer.as_slice()).unwrap()),
            (Ok(answer), "CreateContainer") => {
                let request = api::CreateContainerRequest::decode(payload).unwrap();
                let limits = request.container.unwrap().rlimits;
                let answer = api::CreateContainerResponse::decode(answer.as_slice()).unwrap();
                let adjusted = answer.adjust.unwrap_or_default().rlimits;
                let first = limits.iter().find(|limit| limit.r#type == "RLIMIT_MEMLOCK");
                let lower = first.map(|limit| limit.soft.min(limit.hard));
                assert_eq!(adjusted.first().map(|limit| limit.soft), lower);
                assert_eq!(adjusted.first().map(|limit| limit.hard), lower);
            }
            (Ok(_), method) => assert_ne!(method, "Unheard"),
            // INVALID_ARGUMENT, UNIMPLEMENTED.
            (Err((code, sentence)), _) => assert!(matches!(code, 3 | 12), "{code} {sentence}"),
        }
        stays::<api::PodSandbox>(payload);
        stays::<api::CreateContainerRequest>(payload);
        stays::<api::SynchronizeRequest>(payload);
        stays::<api::StateChangeEvent>(payload);
    }

    pub fn oci_states(input: &[u8]) {
        let state = String::from_utf8_lossy(input);
        let (process, config) = (process_of(&state), config_of(&state));
        assert!(process.is_err() || config.is_ok_and(|path| path.ends_with("config.json")));
        for cgroups in
            ["", &state, "0::/kubepods.slice/kubepods-pod6f3c2f1e_0a57_4f5b_9d61_0d7ad5a3c0aa.slice/cri"]
        {
            match sandbox_of(&state, cgroups, "") {
                Ok(sandbox) => {
                    let pid = process.as_ref().unwrap();
                    assert!(sandbox.pid == *pid && !sandbox.id.is_empty() && !sandbox.pod_uid.is_empty());
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }

    pub fn oci_bundles(input: &[u8]) {
        let Ok(bundle) = Bundle::parse(&String::from_utf8_lossy(input)) else { return };
        assert!(bundle.env.len() + bundle.devices.len() <= input.len());
    }
}
