//! Which claims a pod has, and where each comes from.

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimSpec, ResourceClaimTemplate};

use crate::allocate::claim_name;
use crate::app::Supply;
use crate::cli::documents::Documents;

/// One entry of `spec.resourceClaims`.
#[derive(Debug)]
pub struct PodClaim<'a> {
    /// `namespace/name`; where a template makes the claim, the name without what the API server adds.
    pub name: String,
    /// What the pod calls it.
    pub called: &'a str,
    /// What it is made of.
    pub source: Source<'a>,
}

/// Where a pod's claim comes from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// It is there, or in the file.
    Claim(&'a ResourceClaim),
    /// It is made for the pod.
    Template(&'a ResourceClaimTemplate),
}

impl PodClaim<'_> {
    /// What it asks for.
    pub fn spec(&self) -> ResourceClaimSpec {
        match self.source {
            Source::Claim(claim) => claim.spec.clone().unwrap_or_default(),
            Source::Template(template) => template_spec(template),
        }
    }
}

/// What claims of a template ask for.
pub fn template_spec(template: &ResourceClaimTemplate) -> ResourceClaimSpec {
    template.spec.clone().and_then(|spec| spec.spec).unwrap_or_default()
}

/// The namespace and the name of a pod.
pub fn pod_name(pod: &Pod) -> (&str, &str) {
    let metadata = &pod.metadata;
    (metadata.namespace.as_deref().unwrap_or("default"), metadata.name.as_deref().unwrap_or_default())
}

/// The claims of a pod, in its order. What is there already goes before what the file has.
///
/// # Errors
/// It names a claim or template that is in neither.
pub fn claims_of<'a>(
    pod: &'a Pod,
    asked: &'a Documents,
    supply: &'a Supply,
) -> anyhow::Result<Vec<PodClaim<'a>>> {
    let (namespace, pod_name) = pod_name(pod);
    let in_namespace = |other: &Option<String>| other.as_deref().unwrap_or("default") == namespace;
    let mut claims = Vec::new();
    for reference in pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()) {
        let called = reference.name.as_str();
        if let Some(name) = &reference.resource_claim_name {
            let mut all = supply.claims.iter().chain(&asked.claims);
            let claim = all
                .find(|c| c.metadata.name.as_ref() == Some(name) && in_namespace(&c.metadata.namespace))
                .with_context(|| {
                    format!("Pod {namespace}/{pod_name} uses the ResourceClaim {name}, which nothing defines")
                })?;
            claims.push(PodClaim { name: claim_name(claim), called, source: Source::Claim(claim) });
        } else if let Some(name) = &reference.resource_claim_template_name {
            let mut all = asked.templates.iter().chain(&supply.templates);
            let template = all
                .find(|t| t.metadata.name.as_ref() == Some(name) && in_namespace(&t.metadata.namespace))
                .with_context(|| {
                    format!(
                        "Pod {namespace}/{pod_name} uses the ResourceClaimTemplate {name}, which nothing defines"
                    )
                })?;
            let name = format!("{namespace}/{pod_name}-{called}");
            claims.push(PodClaim { name, called, source: Source::Template(template) });
        }
    }
    Ok(claims)
}
