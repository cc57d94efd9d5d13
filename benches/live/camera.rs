//! The camera: a clip of the built-in scene with frame numbers, served over RTSP at its own rate.

use anyhow::{Context, Result, ensure};
use framegate::frame::clock;
use framegate::source::scene::{PlanesMut, Scene, SceneConfig};
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_rtsp_server as rtsp;
use rtsp::prelude::*;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Columns and rows of the clip.
pub const SIZE: (usize, usize) = (1280, 720);
const FPS: u64 = 30;

/// Draws `frames` frames and encodes them as a camera does: H.264 High, no B-frames, a keyframe every two seconds,
/// about 4 Mbit/s.
pub fn encode(clip: &Path, frames: u64) -> Result<()> {
    gst::init()?;
    let scene = Scene::new(SceneConfig { number: true, ..SceneConfig::live(SIZE.0, SIZE.1, FPS as f64) }, 7)?;
    let part = clip.with_extension("part");
    let pipeline = gst::parse::launch(&format!(
        "appsrc name=in format=time block=true max-buffers=4 caps=video/x-raw,format=I420,width={},height={},framerate={FPS}/1 ! \
         x264enc bitrate=4000 speed-preset=veryfast bframes=0 key-int-max=60 option-string=scenecut=0 ! \
         video/x-h264,profile=high ! h264parse ! matroskamux ! filesink location={part:?}",
        SIZE.0, SIZE.1
    ))?
    .downcast::<gst::Pipeline>()
    .map_err(|_| anyhow::anyhow!("not a pipeline"))?;
    let source = pipeline.by_name("in").and_then(|e| e.downcast::<gst_app::AppSrc>().ok()).context("appsrc")?;
    pipeline.set_state(gst::State::Playing)?;
    for n in 0..frames {
        let mut pixels = vec![0; SIZE.0 * SIZE.1 * 3 / 2];
        scene.draw(n, &mut PlanesMut::tight(SIZE, &mut pixels)?)?;
        let mut buffer = gst::Buffer::from_mut_slice(pixels);
        let b = buffer.get_mut().context("a new buffer")?;
        b.set_pts(gst::ClockTime::from_nseconds(n * 1_000_000_000 / FPS));
        b.set_duration(gst::ClockTime::from_nseconds(1_000_000_000 / FPS));
        source.push_buffer(buffer)?;
    }
    source.end_of_stream()?;
    let message = pipeline
        .bus()
        .context("bus")?
        .timed_pop_filtered(gst::ClockTime::NONE, &[gst::MessageType::Eos, gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null)?;
    ensure!(message.is_some_and(|m| m.type_() == gst::MessageType::Eos), "the clip could not be encoded");
    Ok(std::fs::rename(part, clip)?)
}

/// Serves the clip until the process is ended. Prints its port, then notes for each frame its number and when its first
/// packet went out, in nanoseconds of the monotonic clock.
pub fn serve(clip: &Path, log: &Path, loss: f64) -> Result<()> {
    gst::init()?;
    let server = rtsp::RTSPServer::new();
    server.set_address("127.0.0.1");
    server.set_service("0");
    let factory = rtsp::RTSPMediaFactory::new();
    factory.set_launch(&format!(
        "( filesrc location={clip:?} ! matroskademux ! h264parse config-interval=-1 ! identity sync=true ! \
         rtph264pay name=pay0 pt=96 mtu=1400 config-interval=1 )"
    ));
    factory.set_latency(0);
    let log = Arc::new(Mutex::new((std::fs::File::create(log)?, u64::MAX)));
    factory.connect_media_configure(move |_, media| {
        let bin = media.element();
        let Some(bin) = bin.downcast_ref::<gst::Bin>() else { return };
        if let Some(pay) = bin.by_name("pay0").and_then(|p| p.static_pad("src")) {
            probe(&pay, log.clone(), loss);
        }
        // The server's own sinks would hold packets back by their processing deadline.
        media.connect_new_state(move |media, _| {
            let mut top = media.element().upcast::<gst::Object>();
            while let Some(parent) = top.parent() {
                top = parent;
            }
            if let Ok(top) = top.downcast::<gst::Bin>() {
                for sink in top.iterate_sinks().into_iter().flatten() {
                    unsync(&sink);
                }
                for element in top.iterate_recurse().into_iter().flatten() {
                    unsync(&element);
                }
            }
        });
    });
    server.mount_points().context("mount points")?.add_factory("/cam", factory);
    let _id = server.attach(None)?;
    println!("{}", server.bound_port());
    std::io::stdout().flush()?;
    glib::MainLoop::new(None, false).run();
    Ok(())
}

fn unsync(element: &gst::Element) {
    let name = element.factory().map(|f| f.name()).unwrap_or_default();
    if name == "multiudpsink" || name == "appsink" {
        element.set_property("sync", false);
    }
}

/// Notes each frame's first packet, and loses packets.
fn probe(pad: &gst::Pad, log: Arc<Mutex<(std::fs::File, u64)>>, loss: f64) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let lost = move || {
        // xorshift64*: any even spread does.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64 <= loss && loss > 0.0
    };
    let note = move |pts: Option<gst::ClockTime>| {
        let Some(pts) = pts else { return };
        let n = (pts.nseconds() * FPS + 500_000_000) / 1_000_000_000;
        if let Ok(mut log) = log.lock()
            && log.1 != n
        {
            log.1 = n;
            let _ = writeln!(log.0, "{n} {}", clock::now());
        }
    };
    let lost = Mutex::new(lost);
    pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |_, info| {
        let Ok(mut lost) = lost.lock() else { return gst::PadProbeReturn::Ok };
        match &mut info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                note(buffer.pts());
                if lost() { gst::PadProbeReturn::Drop } else { gst::PadProbeReturn::Ok }
            }
            Some(gst::PadProbeData::BufferList(list)) => {
                note(list.get(0).and_then(|b| b.pts()));
                if loss > 0.0 {
                    let list = list.make_mut();
                    for i in (0..list.len()).rev() {
                        if lost() {
                            list.remove(i..i + 1);
                        }
                    }
                }
                gst::PadProbeReturn::Ok
            }
            _ => gst::PadProbeReturn::Ok,
        }
    });
}
