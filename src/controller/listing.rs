//! Watches that begin with a list. The client has no time limit for an answer, because a watch may be quiet for minutes; a
//! list that is not answered would leave an agent that publishes nothing.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};

/// A server that is busy for longer is asked again all the same.
const LONGEST: Duration = Duration::from_secs(120);

/// Events of a watch.
pub type Changes<K> = Pin<Box<dyn Stream<Item = Result<Event<K>, watcher::Error>> + Send>>;

struct Listing<K> {
    api: Api<K>,
    config: watcher::Config,
    /// For each answer, as long as a list is asked for; twice as long after one that took longer.
    budget: Duration,
    first: Duration,
    events: Option<Changes<K>>,
    lists: bool,
}

/// Watches without an end; a list whose answer takes longer than `budget` is an error, and is asked for anew.
pub fn watched<K>(api: Api<K>, config: watcher::Config, budget: Duration) -> Changes<K>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let listing = Listing { api, config, budget, first: budget, events: None, lists: false };
    futures::stream::unfold(listing, |mut listing| async move {
        let event = listing.next().await;
        Some((event, listing))
    })
    .boxed()
}

impl<K> Listing<K>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    async fn next(&mut self) -> Result<Event<K>, watcher::Error> {
        loop {
            let (api, config) = (&self.api, &self.config);
            let begin = || watcher(api.clone(), config.clone()).default_backoff().boxed();
            let events = self.events.get_or_insert_with(begin);
            let event = match self.lists {
                true => tokio::time::timeout(self.budget, events.next()).await,
                false => Ok(events.next().await),
            };
            match event {
                Ok(Some(event)) => {
                    match &event {
                        Ok(Event::Init) => self.lists = true,
                        Ok(Event::InitDone) => (self.lists, self.budget) = (false, self.first),
                        Err(_) => self.lists = false,
                        Ok(_) => {}
                    }
                    return event;
                }
                // It has no end; should it have one, it begins again.
                Ok(None) => (self.events, self.lists) = (None, false),
                Err(_) => {
                    (self.events, self.lists) = (None, false);
                    let why = format!("no answer within {} s", self.budget.as_secs());
                    self.budget = (self.budget * 2).min(LONGEST);
                    return Err(watcher::Error::InitialListFailed(kube::Error::Service(why.into())));
                }
            }
        }
    }
}
