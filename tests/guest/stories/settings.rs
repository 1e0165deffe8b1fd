//! Claims that set something of their VFs: made before the pod, there while it runs, gone after it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::containerd::PodId;
use crate::host::{facts, netdev, run, settings_of, wait_as_before, wait_for};
use crate::inside::Ground;
use crate::node::{Node, Running};

const RETURN: Duration = Duration::from_secs(40);
/// An administrative address.
const MAC: &str = "02:00:00:00:a1:01";

async fn pings(node: &Node, from: &Running, to: &str) -> Result<()> {
    let said = node.runtime.exec(&from.container, &["/bin/ping", "-c", "3", "-W", "5", to]).await?;
    ensure!(said.contains(" 0% packet loss"), "ping said {said}");
    Ok(())
}

/// Nobody answers, not even to who has that address.
async fn does_not_reach(node: &Node, from: &Running, to: &str) -> Result<()> {
    let said = node.runtime.exec(&from.container, &["/bin/ping", "-c", "2", "-W", "2", to]).await;
    let said = said.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(said.contains("100% packet loss"), "{to} should not be reached: {said}");
    Ok(())
}

fn mac_in(pod: &Running) -> Result<String> {
    let netns = pod.sandbox.netns_name();
    let links: Value =
        serde_json::from_str(&run("ip", &["-netns", &netns, "-json", "link", "show", "fast0"])?)?;
    Ok(links[0]["address"].as_str().context("an address")?.to_owned())
}

pub async fn settings_of_claims_hold_while_their_pods_run_and_are_as_before_after_them(
    ground: Ground,
) -> Result<()> {
    let vfs = &ground.of_one_pf()[..3];
    let pf = netdev(vfs[0].pf)?.context("the PF has a netdev")?;
    let (before, settings_before) = (facts(vfs)?, settings_of(&pf)?);
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let wanted = [
        json!({ "vlan": 100, "mac": MAC, "maxTxRateMbps": 500 }),
        json!({ "vlan": 100, "vlanQos": 3, "trust": true, "spoofCheck": false }),
        json!({ "vlan": 200 }),
    ];
    let mut pods = Vec::new();
    for (i, wanted) in wanted.iter().enumerate() {
        let pod = PodId::new(&format!("set{i}"));
        let interface = json!({ "name": "fast0", "addresses": [format!("10.9.0.{}/24", i + 1)] });
        let config = json!({ "interface": interface, "vf": wanted });
        let claim = node.claim_with(&format!("claim-set{i}"), &pod, &vfs[i..=i], config).await?;
        let running = node.start_pod(&pod, &[&claim]).await?;
        pods.push((claim, running));
    }
    let [(_, a), (_, b), (_, c)] = pods.as_slice() else { bail!("three pods") };

    // What ip says of the PF's VFs is what it said before, but for what the claims set.
    let mut expected = settings_before.clone();
    let index = |i: usize| vfs[i].index as usize;
    expected[index(0)]["vlan_list"] = json!([{ "vlan": 100 }]);
    expected[index(0)]["address"] = json!(MAC);
    expected[index(0)]["rate"] = json!({ "max_tx": 500, "min_tx": 0 });
    expected[index(0)]["tx_rate"] = json!(500);
    expected[index(1)]["vlan_list"] = json!([{ "vlan": 100, "qos": 3 }]);
    expected[index(1)]["trust"] = json!(true);
    expected[index(1)]["spoofchk"] = json!(false);
    expected[index(2)]["vlan_list"] = json!([{ "vlan": 200 }]);
    let now = settings_of(&pf)?;
    ensure!(now == expected, "ip says {now:?}\ninstead of {expected:?}");

    // The pods see none of it but their address; the NIC keeps them apart.
    ensure!(mac_in(a)? == MAC, "the pod's interface has {}", mac_in(a)?);
    pings(&node, a, "10.9.0.2").await?;
    does_not_reach(&node, a, "10.9.0.3").await?;
    does_not_reach(&node, c, "10.9.0.1").await?;

    // An address of the pod's own choice: only with trust, and it works there.
    let change = |pod: &Running, mac: &str| {
        run("ip", &["-netns", &pod.sandbox.netns_name(), "link", "set", "fast0", "address", mac])
    };
    ensure!(change(a, "02:00:00:00:a1:02").is_err(), "a VF without trust changed its address");
    ensure!(mac_in(a)? == MAC, "the pod's interface has {}", mac_in(a)?);
    change(b, "02:00:00:00:a1:03")?;
    ensure!(mac_in(b)? == "02:00:00:00:a1:03", "the pod's interface has {}", mac_in(b)?);
    pings(&node, b, "10.9.0.1").await?;

    for (claim, running) in &pods {
        node.runtime.stop_pod(&running.sandbox.id).await?;
        node.unprepare(claim).await?;
        ensure!(node.traces_of(claim).is_empty(), "of {claim:?} there is still {:?}", node.traces_of(claim));
    }
    wait_as_before(&before, RETURN)?;
    let after = settings_of(&pf)?;
    ensure!(after == settings_before, "the VFs were {settings_before:?}\nand are {after:?}");

    // The next pods find VFs that work, in no VLAN.
    let mut next = Vec::new();
    for i in [0, 2] {
        let pod = PodId::new(&format!("next{i}"));
        let interface = json!({ "name": "fast0", "addresses": [format!("10.9.0.{}/24", i + 1)] });
        let claim = node.claim(&format!("claim-next{i}"), &pod, &vfs[i..=i], interface).await?;
        let running = node.start_pod(&pod, &[&claim]).await?;
        next.push((claim, running));
    }
    pings(&node, &next[0].1, "10.9.0.3").await?;
    // And are as free as they were: the address that a VF had chosen is not its PF's now.
    change(&next[0].1, "02:00:00:00:a1:04")?;
    pings(&node, &next[0].1, "10.9.0.3").await?;
    for (claim, running) in &next {
        node.runtime.stop_pod(&running.sandbox.id).await?;
        node.unprepare(claim).await?;
    }
    wait_as_before(&before, RETURN)?;
    ensure!(node.slice_writes() == 0, "the claims caused {} writes of slices", node.slice_writes());
    Ok(())
}

pub async fn a_setting_that_igb_refuses_is_named_with_its_vf_and_nothing_stays_of_the_claim(
    ground: Ground,
) -> Result<()> {
    let vf = ground.of_one_pf()[0];
    let pf = netdev(vf.pf)?.context("the PF has a netdev")?;
    let (before, settings_before) = (facts(&[vf])?, settings_of(&pf)?);
    let node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    // With each goes something that is made before it and has to be taken back.
    for (case, wanted, field, reason) in [
        ("ad", json!({ "vlan": 100, "vlanProtocol": "802.1ad" }), "vf.vlan", "Protocol not supported"),
        (
            "min",
            json!({ "vlan": 100, "mac": MAC, "minTxRateMbps": 10 }),
            "vf.minTxRateMbps",
            "Invalid argument",
        ),
        (
            "state",
            json!({ "vlan": 100, "trust": true, "linkState": "enable" }),
            "vf.linkState",
            "Operation not supported",
        ),
    ] {
        let claim = node
            .claim_with(&format!("claim-{case}"), &PodId::new(case), &[vf], json!({ "vf": wanted }))
            .await?;
        let Err(error) = node.prepare(&claim).await else { bail!("igb took {wanted}") };
        let sentence = format!("{error:#}");
        let all = [field, reason, &vf.pci.to_string(), &pf];
        ensure!(all.iter().all(|part| sentence.contains(part)), "of {wanted} it is said: {sentence}");
        wait_as_before(&before, RETURN)?;
        let after = settings_of(&pf)?;
        ensure!(
            after == settings_before,
            "after {wanted} the VFs were {settings_before:?}\nand are {after:?}"
        );
        node.unprepare(&claim).await?;
        ensure!(
            node.traces_of(&claim).is_empty(),
            "of {claim:?} there is still {:?}",
            node.traces_of(&claim)
        );
    }
    Ok(())
}

pub async fn settings_of_an_agent_that_was_killed_are_taken_back_by_the_next(ground: Ground) -> Result<()> {
    let vf = ground.of_one_pf()[0];
    let pf = netdev(vf.pf)?.context("the PF has a netdev")?;
    let (before, settings_before) = (facts(&[vf])?, settings_of(&pf)?);
    let mut node = Node::start(&ground.runtime, ground.vfs.len()).await?;
    let wanted = json!({ "vf": { "vlan": 100, "mac": MAC, "trust": true, "spoofCheck": false, "maxTxRateMbps": 500 } });
    let claim = node.claim_with("claim-killed", &PodId::new("killed"), &[vf], wanted).await?;
    node.prepare(&claim).await?;
    node.kill_agent()?;
    let set = settings_of(&pf)?;
    let of_vf = &set[vf.index as usize];
    ensure!(of_vf["address"] == MAC && of_vf["trust"] == true, "after Prepare ip says {of_vf}");
    node.start_agent().await?;
    node.unprepare(&claim).await?;
    wait_as_before(&before, RETURN)?;
    let now = || Ok(settings_of(&pf)? == settings_before);
    wait_for(Duration::from_secs(5), &format!("settings {settings_before:?}"), now)?;
    ensure!(node.traces_of(&claim).is_empty(), "of the claim there is still {:?}", node.traces_of(&claim));
    Ok(())
}
