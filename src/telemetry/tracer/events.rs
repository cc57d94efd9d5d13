//! From the way of a frame to events of the Chrome trace format. Every stream has a track, and so has every thread that
//! works on frames. Slices of one track never cross: what would, gets a track of the same name beside it.

use crate::frame::journey::{Act, BatchNote, Leg, Trip};
use crate::frame::{Nanos, Outcome};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};

/// Groups of tracks, which the format calls processes.
const STREAMS: u32 = 1;
const THREADS: u32 = 2;
const COUNTERS: u32 = 3;

/// Slices of a track that later ones are held against: frames end out of order, but not by more than this.
const RECENT: usize = 64;

/// An event of the format. Times are whole microseconds: so the parts of a slice end exactly where it ends.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    name: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    cat: &'static str,
    ph: &'static str,
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<u64>,
    pid: u32,
    tid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    /// A flow ends in the slice around it, not in the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    bp: Option<&'static str>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    args: Map<String, Value>,
}

fn args(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn micros(at: Nanos) -> u64 {
    at / 1000
}

fn event(ph: &'static str, name: impl Into<String>, at: Nanos, (pid, tid): (u32, u32)) -> Event {
    let (name, cat, ts) = (name.into(), "", micros(at));
    Event { name, cat, ph, ts, dur: None, pid, tid, id: None, bp: None, args: Map::new() }
}

fn slice(name: impl Into<String>, cat: &'static str, (from, to): (Nanos, Nanos), at: (u32, u32), args: Value) -> Event {
    let dur = Some(micros(to.max(from)) - micros(from));
    Event { cat, dur, args: self::args(args), ..event("X", name, from, at) }
}

/// Tracks of one name.
#[derive(Default)]
struct Lanes(Vec<(u32, VecDeque<(Nanos, Nanos)>)>);

/// Where everything is drawn.
#[derive(Default)]
pub struct Layout {
    tracks: BTreeMap<(u32, String), Lanes>,
    tids: u32,
    flows: u64,
    /// Counters' last readings: what has not changed is not said again.
    readings: BTreeMap<(String, String), f64>,
}

impl Layout {
    /// Names the groups.
    pub fn begin(&mut self, pipeline: &str, out: &mut Vec<Event>) {
        let names =
            [(STREAMS, format!("streams of {pipeline}")), (THREADS, "threads".into()), (COUNTERS, "state".into())];
        for (pid, name) in names {
            out.push(Event { args: args(json!({ "name": name })), ..event("M", "process_name", 0, (pid, 0)) });
            out.push(Event {
                args: args(json!({ "sort_index": pid })),
                ..event("M", "process_sort_index", 0, (pid, 0))
            });
        }
    }

    /// A track of this name with room for this span, and whether the very same span is not there yet.
    fn place(&mut self, pid: u32, name: &str, span: (Nanos, Nanos), out: &mut Vec<Event>) -> ((u32, u32), bool) {
        let lanes = self.tracks.entry((pid, name.to_owned())).or_default();
        if let Some((tid, _)) = lanes.0.iter().find(|(_, recent)| recent.contains(&span)) {
            return ((pid, *tid), false);
        }
        let free = |recent: &VecDeque<(Nanos, Nanos)>| recent.iter().all(|r| span.1 <= r.0 || r.1 <= span.0);
        let at = lanes.0.iter().position(|(_, recent)| free(recent)).unwrap_or_else(|| {
            self.tids += 1;
            let label = if lanes.0.is_empty() { name.to_owned() } else { format!("{name} ({})", lanes.0.len() + 1) };
            out.push(Event { args: args(json!({ "name": label })), ..event("M", "thread_name", 0, (pid, self.tids)) });
            lanes.0.push((self.tids, VecDeque::new()));
            lanes.0.len() - 1
        });
        let (tid, recent) = &mut lanes.0[at];
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(span);
        ((pid, *tid), true)
    }

    /// A frame has ended.
    pub fn frame(&mut self, trip: &Trip, out: &mut Vec<Event>) {
        let mut legs: Vec<&Leg> = trip.legs.iter().collect();
        legs.sort_by_key(|l| (l.from, l.to));
        let begun = trip.captured;
        let end = trip.sealed.as_ref().map_or(trip.ended, |s| s.at).max(begun);
        let last = legs.last().map_or(end, |l| l.to.max(end));
        let (track, _) = self.place(STREAMS, &trip.stream, (begun, last), out);
        out.push(slice(format!("frame {}", trip.seq), "frame", (begun, end), track, about(trip, end)));
        let id = json!({ "seq": trip.seq });
        let mut cursor = begun;
        for leg in legs.iter().filter(|l| l.act != Act::Offer) {
            // Parts lie within the whole, whatever clocks and branches do.
            let (from, to) = (leg.from.clamp(begun, end), leg.to.clamp(begun, end));
            if from > cursor {
                let waits = json!({ "seq": trip.seq, "for": name(&leg.act) });
                out.push(slice("wait", "wait", (cursor, from), track, waits));
            }
            let place = if from < cursor {
                self.place(STREAMS, &format!("{}: branch", trip.stream), (from, to), out).0
            } else {
                track
            };
            let mut args = args(id.clone());
            args.extend(batch(&legs, &leg.act).map(details).unwrap_or_default());
            out.push(slice(name(&leg.act), category(&leg.act), (from, to), place, Value::Object(args)));
            cursor = cursor.max(to);
        }
        if end > cursor {
            out.push(slice("wait", "wait", (cursor, end), track, json!({ "seq": trip.seq, "for": "delivery" })));
        }
        for leg in legs.iter().filter(|l| l.act == Act::Offer) {
            out.push(slice("offer", "offer", (leg.from, leg.to), track, id.clone()));
        }
        self.threads(trip, &legs, track, out);
    }

    /// What the threads did for a frame, and arrows from its stream through all of that.
    fn threads(&mut self, trip: &Trip, legs: &[&Leg], stream: (u32, u32), out: &mut Vec<Event>) {
        let mut steps: Vec<(Nanos, (u32, u32))> = Vec::new();
        for leg in legs {
            let Some((thread, shared)) = thread(legs, &leg.act) else { continue };
            let (track, new) = self.place(THREADS, &thread, (leg.from, leg.to), out);
            if new {
                let of = json!({ "stream": &*trip.stream, "seq": trip.seq });
                // A batch is many frames': which of them are watched, the arrows say.
                let args = if shared { batch(legs, &leg.act).map(details).unwrap_or_default() } else { args(of) };
                let span = (leg.from, leg.to);
                out.push(slice(name(&leg.act), category(&leg.act), span, track, Value::Object(args)));
            }
            steps.push((leg.from, track));
        }
        let Some(((last, end), others)) = steps.split_last() else { return };
        self.flows += 1;
        let flow = |ph, at, track| Event { cat: "frame", id: Some(self.flows), ..event(ph, "frame", at, track) };
        out.push(flow("s", trip.captured, stream));
        out.extend(others.iter().map(|&(at, track)| flow("t", at, track)));
        out.push(Event { bp: Some("e"), ..flow("f", *last, *end) });
    }

    /// A reading, if it is another one than before.
    pub fn counter(&mut self, what: &'static str, name: &str, at: Nanos, reading: f64, out: &mut Vec<Event>) {
        let key = (what.to_owned(), name.to_owned());
        if self.readings.get(&key) == Some(&reading) {
            return;
        }
        self.readings.insert(key, reading);
        let unit = if what == "ring" { "frames" } else { "times" };
        let args = args(json!({ unit: reading }));
        out.push(Event { args, ..event("C", format!("{what} {name}"), at, (COUNTERS, 0)) });
    }
}

/// What is said of a whole frame.
fn about(trip: &Trip, end: Nanos) -> Value {
    let ms = |t: Nanos| (t as f64 / 1e3).round() / 1e3;
    let mut about = args(json!({ "seq": trip.seq, "latency_ms": ms(end - trip.captured) }));
    let mut say = |key: &str, value: Value| {
        about.insert(key.to_owned(), value);
    };
    if let Some(outcome) = trip.outcome {
        say("outcome", outcome.name().into());
        match outcome {
            Outcome::Shed(reason) => say("reason", reason.name().into()),
            Outcome::Failed(reason) => say("reason", reason.name().into()),
            Outcome::OnTime | Outcome::Late | Outcome::Evicted => {}
        }
    }
    if let Some(deadline) = trip.deadline {
        say("deadline_ms", ms(deadline.saturating_sub(trip.captured)).into());
    }
    if let Some(sealed) = &trip.sealed {
        say("rung", (*sealed.rung).into());
        say("rescued", sealed.rescued.into());
        say("inferred", sealed.inferred.into());
    }
    Value::Object(about)
}

fn name(act: &Act) -> String {
    match act {
        Act::Arrival => "arrival".into(),
        Act::Decode => "decode".into(),
        Act::Prepare { stage, .. } => format!("{stage}: prepare"),
        Act::Execute { stage } => format!("{stage}: execute"),
        Act::Finish { stage } => format!("{stage}: finish"),
        Act::Stage { stage } => stage.to_string(),
        Act::Offer => "offer".into(),
    }
}

fn category(act: &Act) -> &'static str {
    match act {
        Act::Arrival => "arrival",
        Act::Decode => "decode",
        Act::Prepare { .. } => "prepare",
        Act::Execute { .. } => "execute",
        Act::Finish { .. } => "finish",
        Act::Stage { .. } => "stage",
        Act::Offer => "offer",
    }
}

/// The batch that an act is about.
fn batch<'l>(legs: &[&'l Leg], act: &'l Act) -> Option<&'l BatchNote> {
    match act {
        Act::Prepare { batch, .. } => Some(batch),
        Act::Execute { stage } => legs.iter().find_map(|l| match &l.act {
            Act::Prepare { stage: s, batch } if s == stage => Some(batch),
            _ => None,
        }),
        _ => None,
    }
}

fn details(batch: &BatchNote) -> Map<String, Value> {
    args(json!({ "batch": batch.frames, "rung": &*batch.rung, "device": &*batch.device }))
}

/// The thread that did it, and whether it did it for a whole batch.
fn thread(legs: &[&Leg], act: &Act) -> Option<(String, bool)> {
    match act {
        Act::Prepare { batch, .. } => Some((format!("{}:plan", batch.crew), true)),
        Act::Execute { .. } => batch(legs, act).map(|b| (format!("{}:run", b.crew), true)),
        Act::Finish { stage } => Some((format!("{stage}:finish"), false)),
        Act::Stage { stage } => Some((stage.to_string(), false)),
        Act::Arrival | Act::Decode | Act::Offer => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::ShedReason;
    use crate::frame::journey::Sealed;

    const US: Nanos = 1000;

    fn leg(act: Act, from: u64, to: u64) -> Leg {
        Leg { act, from: from * US, to: to * US }
    }

    /// A frame that is inferred in a batch of two, and tracked.
    fn trip(seq: u64, stream: &str) -> Trip {
        let stage: std::sync::Arc<str> = "detect".into();
        let batch = BatchNote { crew: "detect".into(), device: "cpu".into(), frames: 2, rung: "full".into() };
        let legs = vec![
            leg(Act::Arrival, 100, 110),
            leg(Act::Decode, 110, 150),
            leg(Act::Prepare { stage: stage.clone(), batch }, 160, 170),
            leg(Act::Execute { stage: stage.clone() }, 175, 275),
            leg(Act::Finish { stage }, 280, 290),
            leg(Act::Stage { stage: "track".into() }, 295, 300),
            leg(Act::Offer, 301, 305),
        ];
        Trip {
            stream: stream.into(),
            seq,
            captured: 100 * US,
            deadline: Some(400 * US),
            legs,
            sealed: Some(Sealed { at: 301 * US, rung: "full".into(), rescued: false, inferred: true }),
            outcome: Some(Outcome::OnTime),
            ended: 306 * US,
        }
    }

    fn slices<'e>(events: &'e [Event], track: &(u32, u32)) -> Vec<(&'e str, u64, u64)> {
        let on = events.iter().filter(|e| e.ph == "X" && (e.pid, e.tid) == *track);
        on.map(|e| (e.name.as_str(), e.ts, e.dur.unwrap())).collect()
    }

    fn track(events: &[Event], name: &str) -> (u32, u32) {
        let named = |e: &&Event| e.name == "thread_name" && e.args["name"] == name;
        events.iter().find(named).map(|e| (e.pid, e.tid)).unwrap_or_else(|| panic!("no track {name}"))
    }

    #[test]
    fn the_parts_of_a_frame_fill_it_without_a_gap() {
        let (mut layout, mut events) = (Layout::default(), Vec::new());
        layout.frame(&trip(7, "cam0"), &mut events);
        let own = slices(&events, &track(&events, "cam0"));
        let names: Vec<&str> = own.iter().map(|s| s.0).collect();
        let expected = [
            "frame 7",
            "arrival",
            "decode",
            "wait",
            "detect: prepare",
            "wait",
            "detect: execute",
            "wait",
            "detect: finish",
            "wait",
            "track",
            "wait",
            "offer",
        ];
        assert_eq!(names, expected);
        assert_eq!((own[0].1, own[0].2, own.last().unwrap().1), (100, 201, 301));
        let mut at = 100;
        for part in &own[1..12] {
            assert_eq!(part.1, at, "{part:?}");
            at += part.2;
        }
        assert_eq!(at, 301);
        let execute = events.iter().find(|e| e.cat == "execute" && e.pid == STREAMS).unwrap();
        assert_eq!(Value::Object(execute.args.clone()), json!({"seq": 7, "batch": 2, "rung": "full", "device": "cpu"}));
    }

    #[test]
    fn a_batch_is_drawn_once_and_its_frames_lead_to_it() {
        let (mut layout, mut events) = (Layout::default(), Vec::new());
        for (seq, stream) in [(7, "cam0"), (3, "cam1")] {
            let mut t = trip(seq, stream);
            if seq == 3 {
                t.legs[4] = leg(t.legs[4].act.clone(), 290, 294);
                t.legs[5] = leg(t.legs[5].act.clone(), 300, 301);
            }
            layout.frame(&t, &mut events);
        }
        assert_eq!(slices(&events, &track(&events, "detect:run")), [("detect: execute", 175, 100)]);
        assert_eq!(slices(&events, &track(&events, "detect:plan")).len(), 1);
        assert_eq!(slices(&events, &track(&events, "detect:finish")).len(), 2);
        let through =
            |id: u64| -> Vec<&'static str> { events.iter().filter(|e| e.id == Some(id)).map(|e| e.ph).collect() };
        assert_eq!(through(1), ["s", "t", "t", "t", "f"]);
        assert_eq!(through(1), through(2));
        let run = track(&events, "detect:run");
        let ids: Vec<u64> = events.iter().filter(|e| (e.pid, e.tid) == run).filter_map(|e| e.id).collect();
        assert_eq!(ids, [1, 2]);
    }

    #[test]
    fn slices_that_would_cross_lie_beside_each_other() {
        let (mut layout, mut events) = (Layout::default(), Vec::new());
        let mut second = trip(8, "cam0");
        second.captured = 200 * US;
        second.legs = vec![
            leg(Act::Stage { stage: "left".into() }, 210, 250),
            leg(Act::Stage { stage: "right".into() }, 220, 260),
        ];
        layout.frame(&trip(7, "cam0"), &mut events);
        layout.frame(&second, &mut events);
        let own = slices(&events, &track(&events, "cam0 (2)"));
        assert_eq!(own.iter().map(|s| s.0).collect::<Vec<_>>(), ["frame 8", "wait", "left", "wait"]);
        assert_eq!(slices(&events, &track(&events, "cam0: branch")), [("right", 220, 40)]);
    }

    #[test]
    fn a_frame_that_was_given_up_says_why() {
        let (mut layout, mut events) = (Layout::default(), Vec::new());
        let mut t = trip(9, "cam0");
        t.legs.truncate(2);
        (t.sealed, t.outcome, t.ended) = (None, Some(Outcome::Shed(ShedReason::Overload)), 190 * US);
        layout.frame(&t, &mut events);
        let frame = events.iter().find(|e| e.cat == "frame").unwrap();
        assert_eq!(
            (frame.dur, &frame.args["outcome"], &frame.args["reason"]),
            (Some(90), &"shed".into(), &"overload".into())
        );
        assert!(!events.iter().any(|e| e.id.is_some()), "no thread worked on it");
    }

    #[test]
    fn counters_are_said_when_they_change() {
        let (mut layout, mut events) = (Layout::default(), Vec::new());
        for (at, depth) in [(1, 0.0), (2, 0.0), (3, 2.0)] {
            layout.counter("ring", "detect/cam0", at * US, depth, &mut events);
        }
        let said: Vec<_> = events.iter().map(|e| (e.ts, e.args["frames"].as_f64())).collect();
        assert_eq!(said, [(1, Some(0.0)), (3, Some(2.0))]);
    }
}
