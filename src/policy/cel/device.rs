//! The `device` variable: made once for each device, cheap to hand to every expression.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ::cel::ExecutionError;
use ::cel::common::traits::{Container, Indexer};
use ::cel::common::types::{CelBool, CelInt, CelMap, CelMapKey, CelString, MAP_TYPE, Type};
use ::cel::common::value::{CowVal, Val};

use super::{AttributeValue, CelError, Quantity, Semver};

/// A device as expressions see it. A clone shares everything.
#[derive(Debug, Clone)]
pub struct DeviceFacts(Arc<Fields>);

#[derive(Debug)]
struct Fields {
    driver: CelString<'static>,
    attributes: Domains,
    capacity: Domains,
    allow_multiple_allocations: CelBool,
}

impl DeviceFacts {
    /// Keys of `attributes` and `capacity` are `domain/name`, those without domain belong to the driver. Values of
    /// `capacity` are quantities as Kubernetes writes them.
    ///
    /// # Errors
    /// A version is no semantic version, or a quantity is none; the API server accepts neither.
    pub fn new(
        driver: &str,
        attributes: &BTreeMap<String, AttributeValue>,
        capacity: &BTreeMap<String, String>,
        allow_multiple_allocations: bool,
    ) -> Result<Self, CelError> {
        let attributes = attributes.iter().map(|(key, value)| {
            let value: Box<dyn Val> = match value {
                AttributeValue::Bool(flag) => Box::new(CelBool::from(*flag)),
                AttributeValue::Int(number) => Box::new(CelInt::from(*number)),
                AttributeValue::String(text) => Box::new(CelString::from(text.clone())),
                AttributeValue::Version(text) => Box::new(text.parse::<Semver>().map_err(|problem| {
                    CelError::Failed(format!("attribute {key} of the device: {problem}"))
                })?),
            };
            Ok((key.as_str(), value))
        });
        let capacity = capacity.iter().map(|(key, text)| {
            let value = text.parse::<Quantity>();
            let value = value
                .map_err(|problem| CelError::Failed(format!("capacity {key} of the device: {problem}")))?;
            Ok((key.as_str(), Box::new(value) as Box<dyn Val>))
        });
        Ok(Self(Arc::new(Fields {
            attributes: Domains::new(driver, attributes)?,
            capacity: Domains::new(driver, capacity)?,
            driver: CelString::from(driver.to_owned()),
            allow_multiple_allocations: CelBool::from(allow_multiple_allocations),
        })))
    }

    fn field(&self, name: &str) -> Option<&(dyn Val + 'static)> {
        let fields = &*self.0;
        Some(match name {
            "driver" => &fields.driver,
            "attributes" => &fields.attributes,
            "capacity" => &fields.capacity,
            "allowMultipleAllocations" => &fields.allow_multiple_allocations,
            _ => return None,
        })
    }
}

/// To expressions both are maps; what differs is what can be looked up, and whether `in` can be asked.
macro_rules! map_like {
    ($name:ty, $as_container:expr) => {
        impl Val for $name {
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
                let as_container: fn(&Self) -> Option<&dyn Container> = $as_container;
                as_container(self)
            }

            fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
            where
                Self: 'v,
            {
                Box::new(self.clone())
            }
        }
    };
}

map_like!(DeviceFacts, |_| None);
map_like!(Domains, |domains| Some(domains));

impl Indexer for DeviceFacts {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = text(index)?;
        match self.field(name) {
            Some(value) => Ok(CowVal::Borrowed(value)),
            None => Err(ExecutionError::NoSuchKey(Arc::new(name.to_owned()))),
        }
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        Ok(self.get(index)?.clone_as_boxed())
    }
}

/// Maps by domain. One that is not there reads as an empty map, but `in` says it is not there.
#[derive(Debug, Clone)]
struct Domains(Arc<BTreeMap<String, CelMap<'static>>>);

impl Domains {
    fn new<'a>(
        driver: &str,
        entries: impl Iterator<Item = Result<(&'a str, Box<dyn Val>), CelError>>,
    ) -> Result<Self, CelError> {
        let mut domains: BTreeMap<String, HashMap<CelMapKey<'static>, Box<dyn Val>>> = BTreeMap::new();
        for entry in entries {
            let (key, value) = entry?;
            let (domain, name) = key.split_once('/').unwrap_or((driver, key));
            domains.entry(domain.to_owned()).or_default().insert(CelMapKey::from(name.to_owned()), value);
        }
        Ok(Self(Arc::new(domains.into_iter().map(|(domain, values)| (domain, values.into())).collect())))
    }

    fn at(&self, index: &dyn Val) -> Result<Option<&CelMap<'static>>, ExecutionError> {
        text(index).map(|domain| self.0.get(domain))
    }
}

fn text(index: &dyn Val) -> Result<&str, ExecutionError> {
    match index.downcast_ref::<CelString<'_>>() {
        Some(text) => Ok(text.inner()),
        None => {
            let got = index.get_type().name().to_owned();
            Err(ExecutionError::UnexpectedType { got, want: "string".to_owned() })
        }
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
