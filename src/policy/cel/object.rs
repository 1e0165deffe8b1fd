//! The variable `device` as CEL sees it.

use std::collections::{BTreeMap, HashMap};

use ::cel::ExecutionError;
use ::cel::common::traits::{Container, Indexer};
use ::cel::common::types::{CelBool, CelInt, CelMap, CelMapKey, CelString, MAP_TYPE, Type};
use ::cel::common::value::{CowVal, Val};

use super::AttributeValue;

/// Keys of attributes are `domain/name`, those without domain belong to the driver.
pub(super) fn device(driver: &str, attributes: &BTreeMap<String, AttributeValue>) -> CelMap<'static> {
    let mut domains: BTreeMap<String, HashMap<CelMapKey<'static>, Box<dyn Val>>> = BTreeMap::new();
    for (key, value) in attributes {
        let (domain, name) = key.split_once('/').unwrap_or((driver, key));
        let value: Box<dyn Val> = match value {
            AttributeValue::Bool(flag) => Box::new(CelBool::from(*flag)),
            AttributeValue::Int(number) => Box::new(CelInt::from(*number)),
            AttributeValue::String(text) | AttributeValue::Version(text) => {
                Box::new(CelString::from(text.clone()))
            }
        };
        domains.entry(domain.to_owned()).or_default().insert(CelMapKey::from(name.to_owned()), value);
    }
    let attributes = Domains(domains.into_iter().map(|(domain, values)| (domain, values.into())).collect());
    let fields: [(&str, Box<dyn Val>); 4] = [
        ("driver", Box::new(CelString::from(driver.to_owned()))),
        ("attributes", Box::new(attributes)),
        ("capacity", Box::new(Domains(BTreeMap::new()))),
        ("allowMultipleAllocations", Box::new(CelBool::from(false))),
    ];
    fields
        .into_iter()
        .map(|(name, value)| (CelMapKey::from(name.to_owned()), value))
        .collect::<HashMap<_, _>>()
        .into()
}

/// Maps by domain. One that is not there reads as an empty map, but `in` says it is not there.
#[derive(Debug, Clone)]
struct Domains(BTreeMap<String, CelMap<'static>>);

impl Domains {
    fn at(&self, index: &dyn Val) -> Result<Option<&CelMap<'static>>, ExecutionError> {
        match index.downcast_ref::<CelString<'_>>() {
            Some(domain) => Ok(self.0.get(domain.inner())),
            None => {
                let got = index.get_type().name().to_owned();
                Err(ExecutionError::UnexpectedType { got, want: "string".to_owned() })
            }
        }
    }
}

impl Val for Domains {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn into_indexer<'v>(self: Box<Self>) -> Option<Box<dyn Indexer + 'v>>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }
}

impl Indexer for Domains {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        Ok(match self.at(index)? {
            Some(map) => CowVal::Borrowed(map),
            None => CowVal::owned(CelMap::default()),
        })
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        Ok(Box::new(self.at(index)?.cloned().unwrap_or_default()))
    }
}

impl Container for Domains {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.at(value)?.is_some())
    }
}
