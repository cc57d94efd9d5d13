//! The thread that keeps the connection to the broker, and the bounded buffer of messages before it.
//!
//! The client library forgets what it holds when a session is lost, so it is never given more than [`IN_FLIGHT`]
//! messages, every one stays here until it is written (QoS 0) or confirmed (QoS 1), and each connection begins with a
//! fresh client. A message can therefore arrive twice (as QoS 1 allows), but none is lost between the two.

use crate::frame::clock;
use crate::sink::SinkError;
use parking_lot::{Condvar, Mutex};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, Outgoing, QoS};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Messages handed to the client library at once.
pub(super) const IN_FLIGHT: usize = 64;
/// What the availability topic says while connected.
const ONLINE: &str = "online";
/// What the availability topic says otherwise.
pub(super) const OFFLINE: &str = "offline";

const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// How to connect, and what to keep.
pub(super) struct Plan {
    pub options: MqttOptions,
    pub availability: Option<String>,
    pub buffer: usize,
    pub patience: Duration,
    pub sink: Arc<str>,
}

struct Message {
    topic: String,
    payload: Vec<u8>,
    qos: QoS,
    retain: bool,
}

#[derive(Default)]
struct State {
    /// Not yet handed to the client library, oldest first.
    waiting: VecDeque<Message>,
    /// Handed over, neither written nor confirmed.
    handed: usize,
    connected: bool,
    /// Why the last connection ended, or was not made.
    trouble: Option<String>,
    /// The sink closes: what is not through by then is lost.
    close_by: Option<Instant>,
    /// The thread has ended.
    ended: bool,
}

impl State {
    fn pending(&self) -> usize {
        self.waiting.len() + self.handed
    }
    fn trouble(&self) -> &str {
        self.trouble.as_deref().unwrap_or("not connected yet")
    }
}

struct Shared {
    state: Mutex<State>,
    /// Room, or a changed connection.
    changed: Condvar,
    /// Wakes the courier's thread.
    wake: Notify,
}

/// The sink's end.
pub(super) struct Courier {
    shared: Arc<Shared>,
    buffer: usize,
    patience: Duration,
    sink: Arc<str>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Courier {
    /// Starts the thread; the first connection is made in the background.
    pub fn start(plan: Plan) -> Result<Self, SinkError> {
        let shared =
            Arc::new(Shared { state: Mutex::new(State::default()), changed: Condvar::new(), wake: Notify::new() });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| SinkError(format!("no runtime for the connection: {e}")))?;
        let (buffer, patience, sink) = (plan.buffer, plan.patience, plan.sink.clone());
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name(format!("mqtt-{sink}"))
            .spawn(move || {
                runtime.block_on(keep_connected(&plan, &theirs));
                // A name look-up that hangs must not keep the sink from closing.
                runtime.shutdown_background();
                theirs.state.lock().ended = true;
                theirs.changed.notify_all();
            })
            .map_err(|e| SinkError(format!("no thread for the connection: {e}")))?;
        Ok(Self { shared, buffer, patience, sink, thread: Some(thread) })
    }

    /// Takes a message. Waits for room only while connected, and at most for the patience.
    pub fn send(&self, topic: String, payload: Vec<u8>, qos: QoS, retain: bool) -> Result<(), SinkError> {
        let deadline = Instant::now() + self.patience;
        let mut state = self.shared.state.lock();
        while state.pending() >= self.buffer {
            if state.ended {
                return Err(SinkError("the connection's thread has ended".to_owned()));
            }
            if !state.connected {
                let (n, why) = (state.pending(), state.trouble());
                return Err(SinkError(format!("the broker is away ({why}) and {n} results wait already")));
            }
            if self.shared.changed.wait_until(&mut state, deadline).timed_out() && state.pending() >= self.buffer {
                let n = state.pending();
                return Err(SinkError(format!("the broker is too slow: {n} results wait already")));
            }
        }
        state.waiting.push_back(Message { topic, payload, qos, retain });
        drop(state);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Waits until everything taken is written or confirmed, at most for the patience.
    pub fn flush(&self) -> Result<(), SinkError> {
        let deadline = Instant::now() + self.patience;
        let mut state = self.shared.state.lock();
        while state.pending() > 0 && !state.ended {
            if self.shared.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        match (state.pending(), state.connected) {
            (0, _) => Ok(()),
            (n, true) => Err(SinkError(format!("{n} results are not confirmed yet"))),
            (n, false) => Err(SinkError(format!("{n} results wait for the broker ({})", state.trouble()))),
        }
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        self.shared.state.lock().close_by = Some(Instant::now() + self.patience);
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // Ends by itself: every wait of the thread looks at `close_by`.
            let _ = thread.join();
        }
        let lost = self.shared.state.lock().pending();
        if lost > 0 {
            tracing::warn!(sink = &*self.sink, lost, "results lost: the broker did not take them before the end");
        }
    }
}

/// Why a connection's turn ended.
enum Ended {
    /// The sink closes, and this was the last of it.
    Closed,
    /// The connection broke or was not made.
    Broken { why: String, was_connected: bool },
}

async fn keep_connected(plan: &Plan, shared: &Shared) {
    let mut backoff = FIRST_BACKOFF;
    let mut logged = None;
    loop {
        let Ended::Broken { why, was_connected } = connection(plan, shared).await else { return };
        if was_connected {
            backoff = FIRST_BACKOFF;
            logged = None;
        }
        // The same trouble again and again is one line in the log.
        if logged.as_ref() != Some(&why) {
            tracing::warn!(sink = &*plan.sink, error = why, "no broker; trying again");
            logged = Some(why);
        }
        // Many clients of one broker must not come back at the same moment.
        let jitter = Duration::from_nanos(clock::now() % (backoff.as_nanos() as u64 / 2).max(1));
        let retry = Instant::now() + backoff / 2 + jitter;
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
        while Instant::now() < retry {
            let close_by = {
                let state = shared.state.lock();
                match state.close_by {
                    Some(_) if state.waiting.is_empty() => return,
                    Some(by) if Instant::now() >= by => return,
                    by => by,
                }
            };
            // Closing with results left: one more attempt soon, if there is time for it.
            let until = close_by.map_or(retry, |by| retry.min(by).min(Instant::now() + FIRST_BACKOFF / 4));
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                () = shared.wake.notified(), if close_by.is_none() => {}
            }
            if close_by.is_some() {
                break;
            }
        }
    }
}

/// One connection's life.
struct Connection<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    client: AsyncClient,
    /// Handed to the client, oldest first.
    window: VecDeque<Handed>,
    connected: bool,
    /// Saying goodbye: nothing more is handed over.
    leaving: bool,
}

struct Handed {
    /// `None` for an availability message: it is said anew on each connection.
    message: Option<Message>,
    /// The packet's number, once it is written.
    packet: Option<u16>,
}

/// Connects, and carries messages until the connection breaks or the sink closes.
async fn connection(plan: &Plan, shared: &Shared) -> Ended {
    // Room for the window, two availability messages and the goodbye.
    let (client, mut events) = AsyncClient::new(plan.options.clone(), IN_FLIGHT + 4);
    let mut c = Connection { plan, shared, client, window: VecDeque::new(), connected: false, leaving: false };
    let ended = loop {
        // A poll is not given up half-way: the client would forget what it was about to write.
        let poll = events.poll();
        tokio::pin!(poll);
        let event = loop {
            if let ControlFlow::Break(ended) = c.hand_over() {
                break Err(ended);
            }
            let close_by = c.shared.state.lock().close_by;
            let alarm = close_by.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                event = &mut poll => break Ok(event),
                () = c.shared.wake.notified() => {}
                () = tokio::time::sleep_until(alarm.into()) => {
                    if close_by.is_some() {
                        break Err(Ended::Closed);
                    }
                }
            }
        };
        match event {
            Err(ended) => break ended,
            Ok(Ok(event)) => {
                if let ControlFlow::Break(ended) = c.handle(event) {
                    break ended;
                }
            }
            Ok(Err(e)) if c.leaving => {
                tracing::debug!(sink = &*c.plan.sink, error = %e, "goodbye not heard");
                break Ended::Closed;
            }
            Ok(Err(e)) => break Ended::Broken { why: e.to_string(), was_connected: c.connected },
        }
    };
    c.put_back(&ended);
    ended
}

impl Connection<'_> {
    /// Hands waiting messages to the client while there is room; says goodbye when the sink closes.
    fn hand_over(&mut self) -> ControlFlow<Ended> {
        let mut state = self.shared.state.lock();
        if self.leaving {
            return ControlFlow::Continue(());
        }
        if !self.connected {
            // Nothing to say, and nobody to say it to.
            let idle = state.close_by.is_some() && state.pending() == 0;
            return if idle { ControlFlow::Break(Ended::Closed) } else { ControlFlow::Continue(()) };
        }
        while self.window.len() < IN_FLIGHT
            && let Some(m) = state.waiting.pop_front()
        {
            if let Err(e) = self.client.try_publish(m.topic.clone(), m.qos, m.retain, m.payload.clone()) {
                state.waiting.push_front(m);
                return ControlFlow::Break(Ended::Broken { why: e.to_string(), was_connected: true });
            }
            state.handed += 1;
            self.window.push_back(Handed { message: Some(m), packet: None });
        }
        if state.close_by.is_some() && state.pending() == 0 {
            drop(state);
            self.leaving = true;
            self.say(OFFLINE);
            if self.window.is_empty() {
                let _ = self.client.try_disconnect();
            }
        }
        ControlFlow::Continue(())
    }

    fn say(&mut self, word: &str) {
        let Some(topic) = &self.plan.availability else { return };
        if self.client.try_publish(topic, QoS::AtLeastOnce, true, word).is_ok() {
            self.window.push_back(Handed { message: None, packet: None });
        }
    }

    fn handle(&mut self, event: Event) -> ControlFlow<Ended> {
        match event {
            Event::Incoming(Incoming::ConnAck(_)) => {
                tracing::info!(sink = &*self.plan.sink, "connected to the broker");
                self.connected = true;
                {
                    let mut state = self.shared.state.lock();
                    state.connected = true;
                    state.trouble = None;
                }
                self.shared.changed.notify_all();
                self.say(ONLINE);
            }
            Event::Outgoing(Outgoing::Publish(packet)) => {
                // The client writes in the order in which it was given the messages.
                if let Some(at) = self.window.iter().position(|h| h.packet.is_none()) {
                    match packet {
                        0 => self.done(at),
                        _ => self.window[at].packet = Some(packet),
                    }
                }
            }
            Event::Incoming(Incoming::PubAck(ack)) => {
                if let Some(at) = self.window.iter().position(|h| h.packet == Some(ack.pkid)) {
                    self.done(at);
                }
            }
            Event::Outgoing(Outgoing::Disconnect) => return ControlFlow::Break(Ended::Closed),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    /// A message has arrived as surely as its quality of service promises.
    fn done(&mut self, at: usize) {
        if self.window.remove(at).is_some_and(|h| h.message.is_some()) {
            self.shared.state.lock().handed -= 1;
            self.shared.changed.notify_all();
        }
        if self.leaving && self.window.is_empty() {
            let _ = self.client.try_disconnect();
        }
    }

    /// What was handed over and is not through waits again, before everything else and in its old order.
    fn put_back(&mut self, ended: &Ended) {
        let mut state = self.shared.state.lock();
        for message in self.window.drain(..).rev().filter_map(|h| h.message) {
            state.waiting.push_front(message);
        }
        state.handed = 0;
        state.connected = false;
        if let Ended::Broken { why, .. } = ended {
            state.trouble = Some(why.clone());
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}
