//! A real RTSP server in the test's process: a numbered picture, encoded and paced as a camera does, over TCP or UDP,
//! with packets lost on purpose and a log of when each frame was sent.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use framegate::frame::{Picture, PixelFormat, clock};
use framegate::source::scene::{NUMBER_BITS, NUMBER_BLOCK, number_code};
use gst::glib;
use gstreamer as gst;
use gstreamer_rtp::RTPBuffer;
use gstreamer_rtsp_server as rtsp_server;
use rtsp_server::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What a server sends.
#[derive(Clone)]
pub struct Options {
    /// Port, 0 for any.
    pub port: u16,
    /// Columns, at least 384 where the frames are to be numbered.
    pub width: u32,
    pub height: u32,
    pub fps: u32,
    /// What `videotestsrc` draws. Pictures of `snow` take several packets each.
    pub pattern: &'static str,
    /// Pixel format before the encoder.
    pub format: &'static str,
    /// From raw video to the payloader.
    pub encoder: String,
    /// Share of RTP packets to lose, 0 to 1.
    pub loss: f64,
    /// Loses the last packet of every so many pictures, where it is not 0.
    pub lose_last: u64,
    /// Share of RTP packets to damage, 0 to 1.
    pub damage: f64,
    /// Who may look, if not everybody.
    pub login: Option<Login>,
    /// Refuses to send over UDP.
    pub tcp_only: bool,
    /// From this frame on, RTP times are this many ticks (of 1/90000 s) off.
    pub jump: Option<(u64, i32)>,
}

/// A name and password that a server asks for.
#[derive(Clone, Copy)]
pub struct Login {
    pub digest: bool,
    pub user: &'static str,
    pub password: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            width: 640,
            height: 360,
            fps: 30,
            pattern: "ball",
            format: "I420",
            encoder: h264("tune=zerolatency"),
            loss: 0.0,
            lose_last: 0,
            damage: 0.0,
            login: None,
            tcp_only: false,
            jump: None,
        }
    }
}

/// An H.264 encoder and payloader.
pub fn h264(keys: &str) -> String {
    format!(
        "x264enc speed-preset=ultrafast key-int-max=15 bitrate=2000 {keys} ! rtph264pay name=pay0 pt=96 config-interval=-1"
    )
}

/// An H.265 encoder and payloader.
pub fn h265(keys: &str) -> String {
    format!(
        "x265enc speed-preset=ultrafast key-int-max=15 bitrate=2000 {keys} ! rtph265pay name=pay0 pt=96 config-interval=-1"
    )
}

#[derive(Default)]
struct Shared {
    /// (frame number, monotonic time its first packet was sent).
    log: Mutex<Vec<(u64, u64)>>,
    /// Numbers of the frames whose last packet was lost on purpose.
    cut: Mutex<Vec<u64>>,
    drawn: AtomicU64,
    mute: AtomicBool,
    packets: AtomicU64,
}

/// A server at work.
pub struct Server {
    options: Options,
    shared: Arc<Shared>,
    running: Option<(glib::MainLoop, JoinHandle<()>)>,
    port: u16,
}

impl Server {
    /// Starts one on loopback.
    pub fn start(options: Options) -> Self {
        gst::init().expect("GStreamer");
        let mut server = Self { port: options.port, options, shared: Arc::default(), running: None };
        server.resume();
        server
    }

    /// A port that nothing listens on, for now.
    pub fn free_port() -> u16 {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        socket.local_addr().expect("an address").port()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn uri(&self) -> String {
        format!("rtsp://127.0.0.1:{}/cam", self.port)
    }

    /// When the first packet of each frame was sent, by its number. Numbers go on through a restart.
    pub fn sent(&self) -> Vec<(u64, u64)> {
        self.shared.log.lock().expect("no panic").clone()
    }

    /// The frames whose last packet was not sent, by [`Options::lose_last`].
    pub fn cut(&self) -> Vec<u64> {
        self.shared.cut.lock().expect("no panic").clone()
    }

    /// Sends nothing more, with all connections left open, as a camera that hangs.
    pub fn mute(&self, mute: bool) {
        self.shared.mute.store(mute, Relaxed);
    }

    /// Ends as a killed server does: connections and port are closed.
    pub fn stop(&mut self) {
        if let Some((main_loop, thread)) = self.running.take() {
            main_loop.quit();
            thread.join().expect("the server's thread");
        }
    }

    /// Serves again, on the same port.
    pub fn resume(&mut self) {
        let (options, shared, wanted) = (self.options.clone(), self.shared.clone(), self.port);
        let (up, listening) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let context = glib::MainContext::new();
            let main_loop = glib::MainLoop::new(Some(&context), false);
            context
                .with_thread_default(|| {
                    let server = rtsp_server::RTSPServer::new();
                    server.set_address("127.0.0.1");
                    server.set_service(&wanted.to_string());
                    let factory = factory(&options, &shared);
                    if let Some(login) = options.login {
                        protect(&server, &factory, login);
                    }
                    server.mount_points().expect("mount points").add_factory("/cam", factory);
                    let id = server.attach(Some(&context)).expect("the port is free");
                    up.send((main_loop.clone(), server.bound_port() as u16)).expect("waited for");
                    main_loop.run();
                    server.client_filter(Some(&mut |_, _| rtsp_server::RTSPFilterResult::Remove));
                    if let Some(listening) = context.find_source_by_id(&id) {
                        listening.destroy();
                    }
                    while context.iteration(false) {}
                })
                .expect("a context of its own");
        });
        let (main_loop, port) = listening.recv().expect("the server starts");
        self.port = port;
        self.running = Some((main_loop, thread));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn protect(server: &rtsp_server::RTSPServer, factory: &rtsp_server::RTSPMediaFactory, login: Login) {
    let role = gst::Structure::builder("viewer")
        .field("media.factory.access", true)
        .field("media.factory.construct", true)
        .build();
    factory.add_role_from_structure(&role);
    let token = rtsp_server::RTSPToken::builder().field("media.factory.role", "viewer").build();
    let auth = rtsp_server::RTSPAuth::new();
    if login.digest {
        auth.set_supported_methods(rtsp_server::gst_rtsp::RTSPAuthMethod::Digest);
        auth.add_digest(login.user, login.password, &token);
    } else {
        auth.add_basic(&rtsp_server::RTSPAuth::make_basic(login.user, login.password), &token);
    }
    server.set_auth(Some(&auth));
}

fn factory(options: &Options, shared: &Arc<Shared>) -> rtsp_server::RTSPMediaFactory {
    let Options { width, height, fps, pattern, format, encoder, .. } = options;
    let factory = rtsp_server::RTSPMediaFactory::new();
    factory.set_launch(&format!(
        "( videotestsrc is-live=true pattern={pattern} ! video/x-raw,format={format},width={width},height={height},framerate={fps}/1 \
         ! identity name=numbers ! {encoder} )"
    ));
    factory.set_shared(true);
    if options.tcp_only {
        factory.set_protocols(rtsp_server::gst_rtsp::RTSPLowerTrans::TCP);
    }
    let (options, shared) = (options.clone(), shared.clone());
    factory.connect_media_configure(move |_, media| {
        // The source is paced already; sinks that wait for the clock too would send later than the log says.
        let bin = media.element().downcast::<gst::Bin>().expect("a launch line makes a bin");
        let pipeline = bin.parent().and_downcast::<gst::Bin>().expect("the media's pipeline");
        // Told again in every state: the server plugs its sinks in late, and sets them up after that.
        media.connect_new_state(move |_, _| {
            for element in pipeline.iterate_recurse().into_iter().flatten() {
                let name = element.factory().map(|f| f.name()).unwrap_or_default();
                if name == "multiudpsink" || name == "appsink" {
                    element.set_property("sync", false);
                }
            }
        });
        let waiting = Arc::new(Mutex::new(std::collections::VecDeque::new()));
        number(&bin, &options, &shared, waiting.clone());
        observe(&bin, &options, &shared, waiting);
    });
    factory
}

type Waiting = Arc<Mutex<std::collections::VecDeque<u64>>>;

fn number(bin: &gst::Bin, options: &Options, shared: &Arc<Shared>, waiting: Waiting) {
    let pad = bin.by_name("numbers").expect("identity").static_pad("src").expect("pad");
    let (shared, width, planar) = (shared.clone(), options.width as usize, options.format.starts_with(['I', 'Y', 'N']));
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let n = shared.drawn.fetch_add(1, Relaxed);
        waiting.lock().expect("no panic").push_back(n);
        if let Some(buffer) = info.buffer_mut().filter(|_| planar && width >= NUMBER_BITS * NUMBER_BLOCK) {
            let mut map = buffer.make_mut().map_writable().expect("raw video");
            let code = number_code(n);
            for row in map.chunks_mut(width).take(NUMBER_BLOCK) {
                for (bit, block) in row.chunks_mut(NUMBER_BLOCK).take(NUMBER_BITS).enumerate() {
                    block.fill(if code >> (NUMBER_BITS - 1 - bit) & 1 == 1 { 235 } else { 16 });
                }
            }
        }
        gst::PadProbeReturn::Ok
    });
}

fn observe(bin: &gst::Bin, options: &Options, shared: &Arc<Shared>, waiting: Waiting) {
    let pad = bin.by_name("pay0").expect("a payloader named pay0").static_pad("src").expect("pad");
    let (shared, loss, damage, jump) = (shared.clone(), options.loss, options.damage, options.jump);
    let (last, units, lose_last) = (Mutex::new(None), AtomicU64::new(0), options.lose_last);
    let keep = move |buffer: &mut gst::Buffer| {
        let packet = RTPBuffer::from_buffer_readable(buffer).expect("RTP");
        let (rtp, marker) = (packet.timestamp(), packet.is_marker());
        drop(packet);
        let mut last = last.lock().expect("no panic");
        if *last != Some(rtp) {
            *last = Some(rtp);
            units.fetch_add(1, Relaxed);
            if let Some(n) = waiting.lock().expect("no panic").pop_front() {
                shared.log.lock().expect("no panic").push((n, clock::now()));
            }
        }
        if let Some((_, ticks)) = jump.filter(|(from, _)| units.load(Relaxed) > *from) {
            let mut packet = RTPBuffer::from_buffer_writable(buffer.make_mut()).expect("RTP");
            packet.set_timestamp(rtp.wrapping_add_signed(ticks));
        }
        let k = shared.packets.fetch_add(1, Relaxed);
        if damage > 0.0 && lot(k ^ 0x5555) < damage {
            let size = buffer.size();
            let mut map = buffer.make_mut().map_writable().expect("writable");
            for i in (20..size).step_by(7) {
                map[i] ^= 0xa5;
            }
        }
        let cut = lose_last > 0 && marker && units.load(Relaxed).is_multiple_of(lose_last);
        if let Some((n, _)) = shared.log.lock().expect("no panic").last().filter(|_| cut) {
            shared.cut.lock().expect("no panic").push(*n);
        }
        !shared.mute.load(Relaxed) && lot(k) >= loss && !cut
    };
    pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |_, info| {
        match &mut info.data {
            Some(gst::PadProbeData::Buffer(b)) => {
                let kept = keep(b);
                if !kept {
                    return gst::PadProbeReturn::Drop;
                }
            }
            Some(gst::PadProbeData::BufferList(list)) => {
                let mut kept = gst::BufferList::new();
                for mut b in list.iter_owned() {
                    if keep(&mut b) {
                        kept.make_mut().add(b);
                    }
                }
                if kept.is_empty() {
                    return gst::PadProbeReturn::Drop;
                }
                *list = kept;
            }
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
}

/// A number from 0 to 1 that looks drawn by lot and is the same in every run.
fn lot(k: u64) -> f64 {
    let mut z = k.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// The number burnt into a picture (its low 16 bits), where it can be read.
pub fn read_number(picture: &Picture) -> Option<u64> {
    let bytes = match picture.format {
        PixelFormat::I420_10 | PixelFormat::I422_10 | PixelFormat::Y444_10 => 2,
        PixelFormat::I420 | PixelFormat::Nv12 | PixelFormat::Y42b | PixelFormat::Y444 => 1,
        _ => return None,
    };
    let row = &picture.buffer.plane(0)[picture.strides[0] * (NUMBER_BLOCK / 2)..];
    let mut code = 0;
    for bit in 0..NUMBER_BITS {
        let x = bit * NUMBER_BLOCK + NUMBER_BLOCK / 2;
        let value = if bytes == 2 { u16::from_le_bytes([row[x * 2], row[x * 2 + 1]]) >> 2 } else { row[x].into() };
        code = code << 1 | u32::from(value > 125);
    }
    let n = u64::from(code >> 8);
    (number_code(n) == code).then_some(n)
}
