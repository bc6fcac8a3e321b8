//! Publisher of task events to containerd's events service (ttrpc).
//!
//! One thread publishes the events in order. They wait while containerd restarts: containerd then finds the shim
//! and queries states, but CRI learns of an exit only by its event.

use crate::base::error::{Context as _, Error, Result};
use crate::base::sys::memory::{self, Program};
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExit, TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::well_known_types::{any::Any, timestamp::Timestamp};
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::ttrpc::context;
use containerd_shim_protos::{Client, EventsClient, topics};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Maximum number of queued events.
const MAX_QUEUED: usize = 2048;
/// Maximum number of attempts to publish an event, [`RETRY_DELAY`] apart.
const MAX_ATTEMPTS: u32 = 300;
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Time without events after which the pod counts as settled, and its memory is released.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// Time limit for one attempt.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An event for which containerd has a topic.
pub trait Event: Message {
    /// Topic, and name in containerd's registry of types.
    const NAMES: (&'static str, &'static str);
}

macro_rules! event {
    ($($kind:ident $topic:ident;)*) => {$(
        impl Event for $kind {
            const NAMES: (&'static str, &'static str) =
                (topics::$topic, concat!("containerd.events.", stringify!($kind)));
        }
    )*};
}

event! {
    TaskCreate TASK_CREATE_EVENT_TOPIC;
    TaskStart TASK_START_EVENT_TOPIC;
    TaskOOM TASK_OOM_EVENT_TOPIC;
    TaskExit TASK_EXIT_EVENT_TOPIC;
    TaskDelete TASK_DELETE_EVENT_TOPIC;
    TaskPaused TASK_PAUSED_EVENT_TOPIC;
    TaskResumed TASK_RESUMED_EVENT_TOPIC;
}

/// Queue of events to publish.
pub struct Events {
    namespace: String,
    queue: SyncSender<Item>,
}

enum Item {
    Event(Box<Envelope>),
    /// Answered when all events before it are published or dropped.
    Flush(SyncSender<()>),
}

impl Events {
    /// Starts a publisher to the ttrpc service at `address`.
    pub fn new(namespace: &str, address: String) -> Result<Events> {
        let (queue, items) = sync_channel(MAX_QUEUED);
        std::thread::Builder::new()
            .name("events".into())
            .spawn(move || publish(&address, &items))
            .context(|| "clone(thread)")?;
        Ok(Events {
            namespace: namespace.to_owned(),
            queue,
        })
    }

    /// Queues an event. Never blocks: if the queue is full, the event is dropped with a warning.
    pub fn send<E: Event>(&self, event: &E) {
        let (topic, name) = E::NAMES;
        let envelope = Envelope {
            timestamp: MessageField::some(timestamp(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(any(name, event)),
            ..Envelope::default()
        };
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Item::Event(envelope.into())) {
            log::warn!("event {topic}: dropped, {MAX_QUEUED} others wait for containerd");
        }
    }

    /// Waits until all events are published, at most for `timeout`.
    pub fn flush(&self, timeout: Duration) {
        let (done, flushed) = sync_channel(1);
        let asked = self.queue.try_send(Item::Flush(done));
        if asked.is_err() || flushed.recv_timeout(timeout).is_err() {
            log::warn!("events: containerd accepted none in time");
        }
    }
}

/// Wraps a message with the name of its type.
pub fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: name.to_owned(),
        value: message
            .write_to_bytes()
            .expect("a message without required fields can be written"),
        ..Any::default()
    }
}

/// Converts a time to protobuf.
pub fn timestamp(moment: SystemTime) -> Timestamp {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos() as i32,
        ..Timestamp::default()
    }
}

/// Returns the next item. Once the pod has settled, it releases the memory that the start took.
fn next(items: &Receiver<Item>, program: &mut Option<Program>) -> Option<Item> {
    match items.recv_timeout(SETTLED_AFTER) {
        Ok(item) => return Some(item),
        Err(RecvTimeoutError::Disconnected) => return None,
        Err(RecvTimeoutError::Timeout) => {}
    }
    memory::trim_heap();
    let found = program.take().map_or_else(Program::find, Ok);
    let released = found.and_then(|found| program.insert(found).release());
    if let Err(error) = released {
        log::warn!("madvise(MADV_DONTNEED): {error}");
    }
    items.recv().ok()
}

/// Publishes items. It closes the connection, which needs two threads, when the queue is empty.
fn publish(address: &str, items: &Receiver<Item>) {
    let mut program = None;
    while let Some(item) = next(items, &mut program) {
        let mut client = None;
        let mut item = Some(item);
        while let Some(current) = item {
            match current {
                Item::Event(event) => deliver(address, &mut client, *event),
                // The caller of `flush` may have timed out.
                Item::Flush(done) => drop(done.try_send(())),
            }
            item = items.try_recv().ok();
        }
    }
}

/// Publishes an event; retries for some minutes, then drops it with a warning.
fn deliver(address: &str, client: &mut Option<EventsClient>, event: Envelope) {
    let topic = event.topic.clone();
    let request = ForwardRequest {
        envelope: MessageField::some(event),
        ..ForwardRequest::default()
    };
    let mut outcome = Ok(());
    for _ in 0..MAX_ATTEMPTS {
        outcome = forward(address, client, &request);
        if outcome.is_ok() {
            return;
        }
        *client = None;
        std::thread::sleep(RETRY_DELAY);
    }
    if let Err(error) = outcome {
        log::warn!("event {topic}: {error}");
    }
}

fn forward(
    address: &str,
    client: &mut Option<EventsClient>,
    request: &ForwardRequest,
) -> Result<()> {
    let failed = |error| Error::system(format_args!("containerd at {address:?}"), error);
    let client = match client {
        Some(client) => client,
        None => {
            let connected = Client::connect(&format!("unix://{address}")).map_err(failed)?;
            client.insert(EventsClient::new(connected))
        }
    };
    let within = context::with_duration(TIMEOUT);
    client.forward(within, request).map(drop).map_err(failed)
}
