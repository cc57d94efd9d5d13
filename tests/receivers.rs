//! Samples over the network: rtl_tcp, TCP, UDP. Senders number their samples, so that every one can be followed.

#[path = "common/bench.rs"]
mod bench;
#[path = "common/intake.rs"]
mod intake;
#[path = "common/rtl_tcp.rs"]
mod rtl_tcp;

use bench::Bench;
use framegate::frame::{Gap, GapCause, SampleBlock, Signal};
use framegate::source::{Context, Gain, Header, Sampling, SourceConfig};
use intake::Running;
use rtl_tcp::{CYCLE, Server, number, sample};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
const RATE: f64 = 200_000.0;

/// A source of short blocks that comes back soon.
fn source(uri: String) -> SourceConfig {
    let ms = Duration::from_millis;
    SourceConfig {
        sample_rate: Some(RATE),
        frequency: Some(100e6),
        block: Some(ms(10)),
        settle: uri.starts_with("rtl_tcp").then_some(Duration::ZERO),
        samples: (!uri.starts_with("rtl_tcp")).then(|| "cu8".into()),
        reconnect_min: ms(10),
        reconnect_max: ms(50),
        ..SourceConfig::at(uri)
    }
}

/// The same, which gives up early.
fn impatient(uri: String) -> SourceConfig {
    let soon = Duration::from_millis(400);
    SourceConfig { stall_timeout: soon, connect_timeout: soon, ..source(uri) }
}

fn start(config: &SourceConfig) -> Running {
    Running::start(config, &Context::default()).expect("nothing that is absent is an error")
}

fn block(running: &Running) -> Arc<SampleBlock> {
    let frame = running.frame(PATIENCE).unwrap_or_else(|| panic!("no block: {:?}", running.stream.signal()));
    frame.payload.samples().expect("samples").clone()
}

/// The number of each sample of a block; fails where they do not follow each other.
fn first_number(block: &SampleBlock) -> u64 {
    let numbers: Vec<u64> = block.samples.iter().map(|s| number(s.re, s.im)).collect();
    assert!(numbers.windows(2).all(|w| (w[0] + 1) % CYCLE == w[1]), "samples are lost within a block");
    numbers[0]
}

/// Follows blocks: each begins where the one before ended, but for its gap, and holds what was sent.
#[derive(Default)]
struct Follower {
    /// Position and number behind the last block.
    end: Option<(u64, u64)>,
    received: u64,
    missing: u64,
}

impl Follower {
    /// Takes the next block. Where the sender's numbers go on over a gap, what is missing must be what the gap says.
    fn take(&mut self, block: &SampleBlock, numbers_go_on: bool) {
        let first = first_number(block);
        let gap = block.gap.map_or(0, |g| g.samples);
        let (end, next) = self.end.unwrap_or((0, first));
        assert_eq!(end + gap, block.position);
        if block.gap.is_none() || numbers_go_on {
            assert_eq!((next + gap) % CYCLE, first, "{gap} are said to be missing");
        }
        let n = block.samples.len() as u64;
        self.received += n;
        self.missing += gap;
        self.end = Some((block.end(), (first + n) % CYCLE));
    }

    /// Ends the source, and compares its counts.
    fn stop(mut self, running: Running) -> framegate::frame::Counts {
        running.intake.stop();
        while let Ok(frame) = running.frames.recv_timeout(Duration::from_millis(200)) {
            frame.ticket.mark(framegate::frame::Outcome::OnTime);
            self.take(frame.payload.samples().expect("samples"), false);
        }
        let (result, counts) = running.stop();
        result.expect("no error");
        assert_eq!(counts.samples, self.received);
        // What was lost behind the last block is in no block's gap.
        assert!(counts.lost.iter().sum::<u64>() >= self.missing, "{counts:?}");
        counts
    }
}

#[test]
fn an_rtl_tcp_receiver_is_set_and_nothing_of_it_is_lost() {
    let server = Server::start(RATE);
    let running = start(&SourceConfig {
        gain: Some(Gain::Db(28.0)),
        ppm: Some(-7),
        agc: true,
        bias_tee: true,
        direct_sampling: Some(Sampling::I),
        ..source(server.uri())
    });
    let mut follower = Follower::default();
    for _ in 0..50 {
        let block = block(&running);
        assert_eq!((block.samples.len(), block.rate, block.frequency), (2000, RATE, Some(100e6)));
        assert!(block.gap.is_none() && block.time.is_none() && !block.last);
        follower.take(&block, true);
    }
    assert_eq!(follower.end.map(|e| e.1), Some(100_000 % CYCLE), "from the first one on");
    let counts = follower.stop(running);
    assert_eq!((counts.lost, counts.gaps, counts.reconnects), ([0; 3], [0; 3], 0));
    assert_eq!(server.counts().1, 0, "the server dropped samples");
    let mut commands = server.commands();
    commands.sort_unstable();
    let ppm = -7i32 as u32;
    assert_eq!(
        commands,
        [(1, 100_000_000), (2, 200_000), (3, 1), (4, 280), (5, ppm), (8, 1), (9, 1), (10, 0), (14, 1)]
    );
}

#[test]
fn the_server_of_these_tests_drops_and_counts_what_a_client_does_not_take() {
    let server = Server::start(20e6);
    let mut client = TcpStream::connect(("127.0.0.1", server.port())).expect("connected");
    let until = Instant::now() + PATIENCE;
    while server.counts().1 == 0 {
        assert!(Instant::now() < until, "nothing was dropped: {:?}", server.counts());
        std::thread::sleep(Duration::from_millis(10));
    }
    server.drop_client();
    let mut taken = Vec::new();
    let _ = client.read_to_end(&mut taken);
    let (due, dropped) = server.counts();
    assert_eq!((taken.len() as u64 - 12).div_ceil(2), due - dropped);
}

#[test]
fn samples_settle_before_the_first_one_counts() {
    let server = Server::start(RATE);
    let running = start(&SourceConfig { settle: Some(Duration::from_millis(100)), ..source(server.uri()) });
    let first = block(&running);
    assert_eq!((first.position, first_number(&first)), (0, 20_000));
    running.stop().0.expect("no error");
}

#[test]
fn a_connection_that_is_lost_leaves_a_gap_as_long_as_it_took() {
    let server = Server::start(RATE);
    let begun = Instant::now();
    let running = start(&source(server.uri()));
    let mut follower = Follower::default();
    for _ in 0..3 {
        for _ in 0..10 {
            let block = block(&running);
            assert!(block.gap.is_none());
            follower.take(&block, false);
        }
        server.drop_client();
        loop {
            let block = block(&running);
            follower.take(&block, false);
            if let Some(gap) = block.gap {
                assert_eq!(gap.cause, GapCause::Reconnect);
                break;
            }
        }
    }
    // Stream time is the host's, if not to the sample.
    let (stream, host) = (follower.end.expect("blocks").0 as f64 / RATE, begun.elapsed().as_secs_f64());
    assert!(stream > 0.3 && stream < host + 0.01, "{stream} s of stream in {host} s");
    let counts = follower.stop(running);
    assert_eq!((counts.gaps, counts.reconnects), ([0, 0, 3], 3));
    assert_eq!(counts.captured, counts.ended());
}

#[test]
fn a_receiver_that_falls_silent_is_connected_again() {
    let server = Server::start(RATE);
    let running = start(&impatient(server.uri()));
    let mut follower = Follower::default();
    follower.take(&block(&running), true);
    server.silence(true);
    running.wait_for(|s| matches!(s, Signal::Down(why) if why.contains("no samples for 400ms")), PATIENCE);
    server.silence(false);
    while let Some(frame) = running.frame(Duration::ZERO) {
        follower.take(frame.payload.samples().expect("samples"), false);
    }
    follower.take(&block(&running), false);
    let counts = follower.stop(running);
    assert!(counts.reconnects >= 1 && server.connections() >= 2, "{counts:?}");
}

/// A source of a server that does this with each client, and what the source says about it.
fn nonsense(answer: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let uri = format!("rtl_tcp://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    let running = start(&impatient(uri));
    let said = running.wait_for(|s| matches!(s, Signal::Down(_)), PATIENCE);
    let (result, counts) = running.stop();
    result.expect("it may be another server next time");
    assert_eq!(counts.captured, 0);
    let Signal::Down(why) = said else { unreachable!() };
    why
}

#[test]
fn a_server_that_speaks_no_rtl_tcp_is_told_from_one_that_does() {
    let why = nonsense(|mut c| drop(c.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")));
    assert!(why.contains("does not begin with `RTL0`") && why.contains("tcp://"), "{why}");
    // An old server begins with samples.
    let why = nonsense(|mut c| drop(c.write_all(&[127; 100_000])));
    assert!(why.contains("sends no header"), "{why}");
    let why = nonsense(drop);
    assert!(why.contains("closed the connection at once"), "{why}");
    let why = nonsense(|mut c| drop(c.write_all(b"RTL0\0\0")));
    assert!(why.contains("closed the connection after 6 bytes"), "{why}");
    let open = std::sync::Mutex::new(Vec::new());
    let why = nonsense(move |c| open.lock().expect("no panic").push(c));
    assert!(why.contains("says nothing"), "{why}");
    // Nobody there at all.
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let running = start(&source(format!("rtl_tcp://127.0.0.1:{port}")));
    running.wait_for(|s| matches!(s, Signal::Down(why) if why.contains("cannot connect")), PATIENCE);
    running.stop().0.expect("it may come");
}

/// Numbered samples as bytes.
fn bytes(numbers: std::ops::Range<u64>) -> Vec<u8> {
    numbers.flat_map(sample).collect()
}

#[test]
fn bare_samples_come_from_a_server() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let running = start(&source(format!("tcp://{}", listener.local_addr().expect("an address"))));
    let mut follower = Follower::default();
    for round in 0..2 {
        let (mut client, _) = listener.accept().expect("a client");
        // Cut anywhere: two and a half blocks, and half a sample.
        for piece in bytes(0..5001)[..10_001].chunks(777) {
            client.write_all(piece).expect("taken");
        }
        drop(client);
        for (i, n) in [2000, 2000, 1000].into_iter().enumerate() {
            let block = block(&running);
            assert_eq!((block.samples.len(), block.gap.is_some()), (n, round == 1 && i == 0));
            follower.take(&block, false);
        }
    }
    let counts = follower.stop(running);
    assert_eq!((counts.samples, counts.gaps), (10_000, [0, 0, 1]));
}

#[test]
fn one_sender_at_a_time_may_connect() {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let running = start(&SourceConfig { listen: true, ..source(format!("tcp://127.0.0.1:{port}")) });
    let connect = || {
        let until = Instant::now() + PATIENCE;
        loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => return stream,
                Err(e) => assert!(Instant::now() < until, "{e}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut first = connect();
    first.write_all(&bytes(0..2000)).expect("taken");
    assert_eq!(first_number(&block(&running)), 0);
    let mut second = connect();
    second.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert_eq!(second.read(&mut [0]).expect("turned away"), 0);
    first.write_all(&bytes(2000..4000)).expect("taken");
    assert_eq!(first_number(&block(&running)), 2000);
    drop(first);
    running.wait_for(|s| matches!(s, Signal::Down(_)), PATIENCE);
    let mut third = connect();
    third.write_all(&bytes(7..2007)).expect("taken");
    let block = block(&running);
    assert_eq!((first_number(&block), block.gap.map(|g| g.cause)), (7, Some(GapCause::Reconnect)));
    running.stop().0.expect("no error");
}

/// A port for datagrams, and who sends to it.
fn datagrams(header: Header, silence: Duration) -> (Running, UdpSocket) {
    let port = UdpSocket::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let config = SourceConfig { header: Some(header), ..source(format!("udp://127.0.0.1:{port}")) };
    let running = start(&SourceConfig { stall_timeout: silence, ..config });
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.connect(("127.0.0.1", port)).expect("an address");
    // Until the port is open, the system says that nobody is there.
    let until = Instant::now() + PATIENCE;
    while socket.send(&[]).and_then(|_| socket.send(&[])).is_err() {
        assert!(Instant::now() < until, "{:?}", running.stream.signal());
        std::thread::sleep(Duration::from_millis(5));
    }
    (running, socket)
}

/// A datagram of 100 samples.
fn datagram(header: Header, n: u64) -> Vec<u8> {
    let mut datagram = match header {
        Header::None => Vec::new(),
        Header::U32le => (n as u32).to_le_bytes().to_vec(),
        Header::U32be => (n as u32).to_be_bytes().to_vec(),
        Header::U64le => n.to_le_bytes().to_vec(),
        Header::U64be => n.to_be_bytes().to_vec(),
        Header::U64leSize => [n.to_le_bytes(), 200u64.to_le_bytes()].concat(),
    };
    datagram.extend(bytes(n * 100..(n + 1) * 100));
    datagram
}

#[test]
fn a_jump_in_the_numbers_of_datagrams_is_a_gap_of_as_many_samples() {
    for header in [Header::U32le, Header::U32be, Header::U64le, Header::U64be, Header::U64leSize] {
        let (running, socket) = datagrams(header, PATIENCE);
        // Two are missing, one comes twice, one too late.
        for n in (0..25).chain([27, 27, 26]).chain(28..60) {
            socket.send(&datagram(header, n)).expect("sent");
        }
        let mut follower = Follower::default();
        let shapes: Vec<(u64, usize, Option<Gap>)> = std::iter::from_fn(|| {
            let block = block(&running);
            follower.take(&block, true);
            Some((block.position, block.samples.len(), block.gap))
        })
        .take(3)
        .collect();
        let gap = Gap { samples: 200, cause: GapCause::Lost };
        assert_eq!(shapes, [(0, 2000, None), (2000, 500, None), (2700, 2000, Some(gap))], "{header:?}");
        let counts = follower.stop(running);
        assert_eq!((counts.lost[1], counts.gaps), (200, [0, 1, 0]), "{header:?}");
    }
}

#[test]
fn every_lost_datagram_is_counted_however_many_are() {
    let header = Header::U64le;
    let (running, socket) = datagrams(header, PATIENCE);
    let mut random = fastrand::Rng::with_seed(4);
    let mut sent = 0;
    // As fast as it really would be, so that the socket's buffer is not what loses.
    let begun = Instant::now();
    for n in 0..2000u64 {
        if n == 0 || n == 1999 || random.u32(..10) < 7 {
            socket.send(&datagram(header, n)).expect("sent");
            sent += 100;
        }
        let due = Duration::from_secs_f64(n as f64 * 100.0 / RATE);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    // The last one ends a block that is full.
    let mut follower = Follower::default();
    let until = Instant::now() + PATIENCE;
    while running.stream.ledger.counts().lost[1] + running.stream.ledger.counts().samples < 198_000 {
        assert!(Instant::now() < until, "{:?}", running.stream.ledger.counts());
        if let Some(frame) = running.frame(Duration::from_millis(100)) {
            follower.take(frame.payload.samples().expect("samples"), true);
        }
    }
    let counts = follower.stop(running);
    assert!(sent < 150_000 && counts.samples > 0);
    // What is too short between two losses is given up too, and counted.
    let all = counts.samples + counts.lost[1] + counts.lost[2];
    assert!((198_000..=200_000).contains(&all), "{all}: {counts:?}");
    // Some hundreds of losses have not made some hundreds of frames.
    assert!(counts.captured < 8 * 101, "{counts:?}");
}

#[test]
fn datagrams_that_hold_no_samples_and_other_senders_are_passed_over() {
    let (running, socket) = datagrams(Header::None, PATIENCE);
    socket.send(&datagram(Header::None, 0)).expect("sent");
    let other = UdpSocket::bind("127.0.0.1:0").expect("a port");
    other.connect(socket.peer_addr().expect("an address")).expect("an address");
    for n in 1..20 {
        other.send(&[9; 200]).expect("sent");
        socket.send(&datagram(Header::None, n)).expect("sent");
    }
    let whole = block(&running);
    assert_eq!((whole.samples.len(), first_number(&whole)), (2000, 0));
    // Three bytes are a sample and a half.
    socket.send(&datagram(Header::None, 20)).expect("sent");
    socket.send(&[1, 2, 3]).expect("sent");
    for n in 20..40 {
        socket.send(&datagram(Header::None, n)).expect("sent");
    }
    let gap = Some(Gap { samples: 101, cause: GapCause::Lost });
    let behind = block(&running);
    assert_eq!((behind.position, behind.gap, first_number(&behind)), (2101, gap, 2000));
    running.stop().0.expect("no error");
}

#[test]
fn a_silent_port_stays_open() {
    let (running, socket) = datagrams(Header::U64le, Duration::from_millis(300));
    for n in 0..20 {
        socket.send(&datagram(Header::U64le, n)).expect("sent");
    }
    assert_eq!(block(&running).position, 0);
    running.wait_for(|s| matches!(s, Signal::Down(why) if why.contains("no samples")), PATIENCE);
    for n in 20..40 {
        socket.send(&datagram(Header::U64le, n)).expect("sent");
    }
    let block = block(&running);
    assert_eq!((block.position, block.gap), (2000, None), "nothing was lost, it only took its time");
    let (_, counts) = running.stop();
    assert_eq!(counts.reconnects, 0);
}

#[test]
fn what_is_wrong_with_a_receiver_is_said_where_it_is() {
    let complains = |config: SourceConfig, key: &str, part: &str| {
        let issues = config.check(&Context::default());
        let found: Vec<String> = issues.iter().map(|i| format!("{}: {}", i.key, i.message)).collect();
        assert!(found.iter().any(|m| m.starts_with(&format!("{key}:")) && m.contains(part)), "{key} {part}: {found:?}");
    };
    let ms = Duration::from_millis;
    let rtl = source("rtl_tcp://localhost".into());
    let tcp = source("tcp://[::1]:5000".into());
    let udp = SourceConfig { header: Some(Header::U64le), ..source("udp://0.0.0.0:5000".into()) };
    for good in [&rtl, &tcp, &udp] {
        assert!(good.check(&Context::default()).is_empty(), "{:?}", good.check(&Context::default()));
    }
    complains(SourceConfig { sample_rate: None, ..rtl.clone() }, "sample_rate", "needs");
    complains(SourceConfig { frequency: None, ..rtl.clone() }, "frequency", "needs");
    complains(SourceConfig { frequency: Some(5e9), ..rtl.clone() }, "frequency", "4.29e9");
    complains(SourceConfig { sample_rate: Some(f64::NAN), ..tcp.clone() }, "sample_rate", "from 1 to");
    complains(SourceConfig { samples: None, ..tcp.clone() }, "samples", "needs");
    complains(SourceConfig { samples: Some("cu8".into()), ..rtl.clone() }, "samples", "no meaning");
    complains(SourceConfig { gain: Some(Gain::Auto), ..tcp.clone() }, "gain", "no meaning");
    complains(SourceConfig { gain: Some(Gain::Db(f64::INFINITY)), ..rtl.clone() }, "gain", "-100 to 100");
    complains(SourceConfig { settle: Some(ms(6000)), ..rtl.clone() }, "settle", "connect_timeout");
    complains(SourceConfig { ppm: Some(5000), ..rtl.clone() }, "ppm", "-1000 to 1000");
    complains(SourceConfig { listen: true, ..udp.clone() }, "listen", "no meaning");
    complains(SourceConfig { header: Some(Header::U64le), ..tcp.clone() }, "header", "no meaning");
    complains(SourceConfig { ring: Some(ms(15)), ..udp.clone() }, "ring", "two blocks");
    complains(SourceConfig { ring: Some(ms(50_000)), sample_rate: Some(20e6), ..udp.clone() }, "ring", "MiB");
    complains(SourceConfig { block: Some(Duration::from_nanos(1)), ..udp }, "block", "1 to");
    complains(SourceConfig { uri: Some("tcp://localhost".into()), ..tcp.clone() }, "uri", "no port");
    complains(SourceConfig { uri: Some("tcp://:7".into()), ..tcp.clone() }, "uri", "no host");
    complains(SourceConfig { uri: Some("tcp://h:7/x".into()), ..tcp }, "uri", "all there is");
    complains(SourceConfig { ring: Some(ms(500)), ..SourceConfig::at("test://ball") }, "ring", "no meaning");
}

#[test]
fn results_report_and_check_tell_of_samples_and_gaps() {
    let server = Server::start(RATE);
    let bench = Bench::new(&format!(
        "[pipeline]\nname = \"air\"\ndeadline = \"500ms\"\n[source.antenna]\nuri = \"{}\"\nsample_rate = {RATE:?}\n\
         frequency = 100e6\nblock = \"10ms\"\nreconnect_min = \"10ms\"\ntime_accuracy = \"5ms\"\n[stage.spectrum]\n\
         kind = \"spectrum\"\nsize = 256\nlevels = false\npeaks = 3\n[sink.out]\nkind = \"jsonl\"\npath = \"out.jsonl\"\n",
        server.uri()
    ));
    bench.says(&["check", "yard.toml"]);
    let mut run = bench
        .command(&["run", "yard.toml", "--http", "off", "--for", "9s", "--report", "report.json"])
        .spawn()
        .expect("started");
    let until = Instant::now() + 6 * PATIENCE;
    while server.counts().0 < 100_000 {
        assert!(Instant::now() < until, "{:?}", server.counts());
        std::thread::sleep(Duration::from_millis(10));
    }
    server.drop_client();
    assert!(run.wait().expect("ended").success());
    let text = std::fs::read_to_string(bench.path("out.jsonl")).expect("written");
    let results: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let mut end = 0;
    let mut gaps = Vec::new();
    for result in &results {
        let samples = &result["samples"];
        assert_eq!((&samples["rate"], &samples["frequency"]), (&RATE.into(), &100e6.into()));
        let position = samples["position"].as_u64().expect("a position");
        let gap = samples["gap"]["samples"].as_u64().unwrap_or(0);
        assert!(position >= end + gap, "{samples}");
        end = position + samples["count"].as_u64().expect("a count");
        gaps.extend(samples["gap"]["cause"].as_str().map(str::to_owned));
    }
    assert!(gaps.contains(&"reconnect".to_owned()), "{gaps:?}");
    let told = results.last().expect("results");
    let accuracy = told["samples"]["time"]["accuracy_ms"].as_f64().expect("an accuracy");
    assert!(accuracy >= 5.0 && told["samples"]["clock"]["drift_ppm"].is_f64(), "{told}");
    let stream = &bench.json("report.json")["streams"]["antenna"];
    assert_eq!(stream["samples"]["gaps"]["reconnect"], 1);
    assert!(stream["samples"]["received"].as_u64() > Some(500_000), "{stream}");
    assert!(stream["samples"]["clock"]["uncertainty_ppm"].is_f64(), "{stream}");
    assert_eq!(stream["reconnects"], 1);
}
