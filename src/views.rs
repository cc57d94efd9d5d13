//! What people watch and ask for while a pipeline runs. It lies between the sinks, which do it, and the HTTP side, which
//! is asked for it; neither waits for the other.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::broadcast;

/// So many lines wait for a client; one that is slower loses the oldest.
const LINES: usize = 32;

/// Everything that can be watched or asked for. Shared by a whole process.
#[derive(Debug, Default)]
pub struct Views {
    waterfalls: Mutex<BTreeMap<Arc<str>, Weak<Waterfall>>>,
    recorders: Mutex<Vec<(Arc<str>, Weak<Recorder>)>>,
}

/// One who records a stream on request. It can be asked as long as the sink holds it.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Option<Duration>>);

impl Recorder {
    /// What it was asked for since the last time: to record for so long from now on, or to stop if that is zero.
    pub fn asked(&self) -> Option<Duration> {
        self.0.lock().take()
    }
}

/// A stream's waterfall: lines of text as they come. It is there as long as a sink holds it.
#[derive(Debug)]
pub struct Waterfall(broadcast::Sender<Arc<str>>);

impl Waterfall {
    /// Whether anybody looks.
    pub fn is_watched(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Shows a line to those who look. Never waits.
    pub fn show(&self, line: Arc<str>) {
        // Nobody may be there any more.
        let _ = self.0.send(line);
    }
}

impl Views {
    /// The waterfall of a stream, for those who make it.
    pub fn waterfall(&self, stream: &Arc<str>) -> Arc<Waterfall> {
        let mut all = self.waterfalls.lock();
        all.retain(|_, w| w.strong_count() > 0);
        if let Some(known) = all.get(stream).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(Waterfall(broadcast::channel(LINES).0));
        all.insert(stream.clone(), Arc::downgrade(&new));
        new
    }

    /// Somebody who records a stream on request.
    pub fn recorder(&self, stream: &Arc<str>) -> Arc<Recorder> {
        let new = Arc::<Recorder>::default();
        let mut all = self.recorders.lock();
        all.retain(|(_, r)| r.strong_count() > 0);
        all.push((stream.clone(), Arc::downgrade(&new)));
        new
    }

    /// Asks everybody who records a stream to do so for this long, or to stop if it is zero. Returns how many there are.
    pub fn record(&self, stream: &str, time: Duration) -> usize {
        let all = self.recorders.lock();
        let of_stream = all.iter().filter(|(id, _)| **id == *stream).filter_map(|(_, r)| r.upgrade());
        of_stream.map(|r| *r.0.lock() = Some(time)).count()
    }

    /// The streams that have a waterfall.
    pub fn waterfalls(&self) -> Vec<Arc<str>> {
        self.waterfalls.lock().iter().filter(|(_, w)| w.strong_count() > 0).map(|(id, _)| id.clone()).collect()
    }

    /// The lines of a stream's waterfall from now on; `None` where it has none. They end when the sink goes.
    pub fn watch(&self, stream: &str) -> Option<broadcast::Receiver<Arc<str>>> {
        self.waterfalls.lock().get(stream).and_then(Weak::upgrade).map(|w| w.0.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waterfall_is_there_as_long_as_somebody_makes_it_and_never_waits_for_those_who_look() {
        let views = Views::default();
        let id: Arc<str> = "rx".into();
        assert!(views.watch("rx").is_none() && views.waterfalls().is_empty());
        let (first, second) = (views.waterfall(&id), views.waterfall(&id));
        assert!(!first.is_watched());
        let mut watcher = views.watch("rx").unwrap();
        assert!(first.is_watched() && second.is_watched());
        for n in 0..1000 {
            second.show(n.to_string().into());
        }
        // The newest are there, and how many are not is said.
        assert!(matches!(watcher.try_recv(), Err(broadcast::error::TryRecvError::Lagged(968))));
        assert_eq!(&*watcher.try_recv().unwrap(), "968");
        drop(first);
        assert_eq!(views.waterfalls(), [id]);
        drop(second);
        assert!(views.watch("rx").is_none() && views.waterfalls().is_empty());
        while watcher.try_recv().is_ok() {}
        assert!(matches!(watcher.try_recv(), Err(broadcast::error::TryRecvError::Closed)));
    }

    #[test]
    fn all_who_record_a_stream_are_asked_once() {
        let views = Views::default();
        let (rx, ry) = (Arc::<str>::from("rx"), Arc::<str>::from("ry"));
        let recorders = [views.recorder(&rx), views.recorder(&rx), views.recorder(&ry)];
        assert_eq!(views.record("rx", Duration::from_secs(2)), 2);
        assert_eq!(
            recorders.each_ref().map(|r| r.asked()),
            [Some(Duration::from_secs(2)), Some(Duration::from_secs(2)), None]
        );
        assert_eq!(recorders[0].asked(), None);
        let [first, second, ry] = recorders;
        drop((first, second));
        assert_eq!((views.record("rx", Duration::ZERO), views.record("ry", Duration::ZERO)), (0, 1));
        assert_eq!(ry.asked(), Some(Duration::ZERO));
    }
}
