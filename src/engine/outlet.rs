//! Where frames go when a node is done with them: on to the rings of the next nodes, and to the sinks.

use super::device::Delivery;
use crate::frame::journey::{Act, Sealed};
use crate::frame::{FailReason, Frame, Nanos, Outcome, Payload, Record, clock};
use crate::ring::{Pushed, Sender};
use crate::telemetry::{Breakdown, SinkMeter, StreamMeter};
use crossbeam_channel as channel;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// A node that runs on a device: whom to tell how its frames were delivered.
pub struct OnDevice {
    /// The device's number among the graph's.
    pub device: usize,
    /// Which of the device's stages it is.
    pub site: usize,
    /// It runs on crops.
    pub crops: bool,
    /// To the device's planner.
    pub delivered: channel::Sender<Delivery>,
}

/// The way into one sink's queue.
#[derive(Clone)]
pub struct SinkPort {
    /// Its ring.
    pub ring: Sender<Arc<Record>>,
    /// Its measurements.
    pub meter: Arc<SinkMeter>,
    /// It reads pixels or samples.
    pub wants_payload: bool,
}

/// What all outlets of a graph share.
pub struct Shared {
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// Names of the rungs, best first.
    pub rungs: Vec<Arc<str>>,
    /// One for each node; `None` for those that run on no device.
    pub devices: Vec<Option<OnDevice>>,
    /// The process is stopping and will not wait for a blocked ring any more.
    pub aborting: AtomicBool,
}

#[derive(Clone)]
struct Lane {
    meter: Arc<StreamMeter>,
    next: Vec<Sender<Frame>>,
}

/// The way out of a node.
pub struct Outlet {
    shared: Arc<Shared>,
    node: u16,
    lanes: RwLock<HashMap<u32, Lane>>,
    /// Frames are sealed here: there are sinks, or nothing lies behind.
    seals: bool,
    sinks: Vec<SinkPort>,
}

impl Outlet {
    /// The way out of node number `node`.
    pub fn new(shared: Arc<Shared>, node: u16, seals: bool, sinks: Vec<SinkPort>) -> Self {
        Self { shared, node, lanes: RwLock::default(), seals, sinks }
    }

    /// Frames of this stream go to these rings from now on.
    pub fn open(&self, stream: u32, meter: Arc<StreamMeter>, next: Vec<Sender<Frame>>) {
        self.lanes.write().insert(stream, Lane { meter, next });
    }

    /// No more frames of this stream will come.
    pub fn end(&self, stream: u32) {
        self.lanes.write().remove(&stream);
    }

    /// Passes a frame on.
    pub fn pass(&self, mut frame: Frame) {
        frame.passed.leave(self.node, clock::now());
        let lanes = self.lanes.read();
        let Some(lane) = lanes.get(&frame.stream().index) else {
            frame.ticket.mark(Outcome::Failed(FailReason::Stopped));
            return;
        };
        let Some((last, others)) = lane.next.split_last() else {
            self.seal(frame, &lane.meter);
            return;
        };
        for ring in others {
            self.push(ring, frame.clone());
        }
        if self.seals {
            self.push(last, frame.clone());
            self.seal(frame, &lane.meter);
        } else {
            self.push(last, frame);
        }
    }

    fn push(&self, ring: &Sender<Frame>, mut frame: Frame) {
        loop {
            match ring.push(frame, Duration::from_millis(50)) {
                Pushed::In => return,
                Pushed::Evicted(oldest) => return oldest.ticket.mark(Outcome::Evicted),
                Pushed::Full(back) if !self.shared.aborting.load(Relaxed) => frame = back,
                Pushed::Full(back) | Pushed::Closed(back) => {
                    return back.ticket.mark(Outcome::Failed(FailReason::Stopped));
                }
            }
        }
    }

    /// Seals the frame's record, counts its outcome and offers it to the sinks.
    fn seal(&self, frame: Frame, meter: &StreamMeter) {
        let delivered = clock::now();
        let ticket = frame.ticket;
        let late = ticket.deadline().map_or(0, |d| delivered.saturating_sub(d));
        ticket.mark(if late == 0 { Outcome::OnTime } else { Outcome::Late });
        self.tell(frame.passed.nodes(), ticket.stream.index, delivered, late);
        if frame.inferred {
            ticket.stream.ledger.add_inferred();
        }
        if frame.rescued {
            ticket.stream.ledger.add_rescued();
        }
        let latency = delivered.saturating_sub(ticket.captured);
        let w = frame.work;
        let arrival = frame.arrival.complete.saturating_sub(ticket.captured);
        let depay_decode = frame.arrival.decoded.saturating_sub(frame.arrival.complete.max(ticket.captured));
        let named = arrival + depay_decode + w.prepare + w.execute + w.finish + w.rest;
        let parts = Breakdown {
            arrival,
            depay_decode,
            wait: latency.saturating_sub(named),
            prepare: w.prepare,
            execute: w.execute,
            finish: w.finish,
            rest: w.rest,
        };
        let rung = frame.rung.unwrap_or(0);
        meter.delivered(ticket.captured, &parts, parts.wait.saturating_sub(w.queued), rung);
        let name = || self.shared.rungs.get(rung).cloned().unwrap_or_else(|| "full".into());
        // Held until the sinks have the record: the offer is part of what is watched.
        let journey = ticket.journey().cloned();
        if let Some(journey) = &journey {
            let (rescued, inferred) = (frame.rescued, frame.inferred);
            journey.sealed(Sealed { at: delivered, rung: name(), rescued, inferred });
        }
        if self.sinks.is_empty() {
            return;
        }
        let size = frame.payload.picture().map(|p| p.view_size());
        let samples = frame.payload.samples().map(|b| b.note(ticket.stream.sample_clock()));
        let payload = self.sinks.iter().any(|s| s.wants_payload);
        let record = Arc::new(Record {
            pipeline: self.shared.pipeline.clone(),
            stream: ticket.stream.clone(),
            seq: ticket.seq,
            pts: frame.pts,
            captured: ticket.captured,
            camera_time_us: frame.camera_time_us,
            delivered,
            on_time: late == 0,
            rung: name(),
            rescued: frame.rescued,
            inferred: frame.inferred,
            size,
            samples,
            annotations: frame.annotations,
            payload: if payload { frame.payload } else { Payload::Empty },
        });
        // The ticket closes the frame's ledger entry here: what a sink loses is the sink's count.
        drop(ticket);
        for sink in &self.sinks {
            self.offer(sink, record.clone());
        }
        if let Some(journey) = journey {
            journey.leg(Act::Offer, delivered, clock::now());
        }
    }

    /// Tells the planners of the devices that a frame has passed how it was delivered. Frames that a tracker carried
    /// count too: they are as much on time as the others.
    fn tell(&self, passed: &[(u16, Nanos)], stream: u32, at: Nanos, late: Nanos) {
        let (mut told, mut crops) = (0u64, 0);
        for (n, &(node, left)) in passed.iter().enumerate().rev() {
            let Some(Some(on)) = self.shared.devices.get(usize::from(node)) else { continue };
            // Each device hears of the frame's end once, from the last of its stages.
            let last = told & (1 << (on.device % 64)) == 0;
            told |= 1 << (on.device % 64);
            let tail = at.saturating_sub(left).saturating_sub(crops);
            let delivery = Delivery { site: on.site, stream, at, tail, late: last.then_some(late) };
            // A full queue only means that the planner has enough to learn from.
            let _ = on.delivered.try_send(delivery);
            if on.crops
                && let Some(before) = n.checked_sub(1).and_then(|n| passed.get(n))
            {
                crops += left.saturating_sub(before.1);
            }
        }
    }

    fn offer(&self, sink: &SinkPort, mut record: Arc<Record>) {
        loop {
            match sink.ring.push(record, Duration::from_millis(50)) {
                Pushed::In => break,
                Pushed::Full(back) if !self.shared.aborting.load(Relaxed) => record = back,
                Pushed::Evicted(_) | Pushed::Full(_) | Pushed::Closed(_) => {
                    sink.meter.error();
                    break;
                }
            }
        }
        sink.meter.pending(sink.ring.len());
    }
}
