//! A live HLS stream: segments that an encoder writes as time passes, behind a small HTTP server.

use gst::prelude::*;
use gstreamer as gst;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A stream at work, 30 frames per second in segments of a second.
pub struct Server {
    port: u16,
    refusing: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    pipeline: gst::Pipeline,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Starts one, and waits until its playlist has three segments.
    pub fn start() -> Self {
        Self::start_for(None)
    }

    /// Starts one that asks for this `Authorization`, if any.
    pub fn start_for(authorization: Option<&'static str>) -> Self {
        gst::init().expect("GStreamer");
        let dir = tempfile::tempdir().expect("temp dir");
        let at = dir.path().display();
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
             ! x264enc speed-preset=ultrafast tune=zerolatency key-int-max=30 ! h264parse \
             ! hlssink2 target-duration=1 playlist-length=6 max-files=20 location={at}/s%05d.ts \
             playlist-location={at}/live.m3u8"
        ));
        let pipeline = pipeline.expect("the elements are there").downcast::<gst::Pipeline>().expect("a pipeline");
        pipeline.set_state(gst::State::Playing).expect("plays");
        let playlist = dir.path().join("live.m3u8");
        let until = Instant::now() + Duration::from_secs(20);
        while std::fs::read_to_string(&playlist).unwrap_or_default().matches("#EXTINF").count() < 3 {
            assert!(Instant::now() < until, "no segments");
            std::thread::sleep(Duration::from_millis(20));
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (refusing, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (root, refuse, ending) = (dir.path().to_owned(), refusing.clone(), stop.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ending.load(Relaxed) {
                    return;
                }
                let (root, refuse) = (root.clone(), refuse.load(Relaxed));
                std::thread::spawn(move || answer(client, &root, refuse, authorization));
            }
        });
        Self { port, refusing, stop, pipeline, _dir: dir }
    }

    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}/live.m3u8", self.port)
    }

    /// From now on answers that nothing is there, or serves again.
    pub fn refuse(&self, refuse: bool) {
        self.refusing.store(refuse, Relaxed);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

fn answer(mut client: TcpStream, root: &std::path::Path, refuse: bool, authorization: Option<&str>) {
    let mut lines = BufReader::new(client.try_clone().expect("a second handle")).lines();
    let Some(Ok(request)) = lines.next() else { return };
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
    let known = authorization.is_none_or(|a| {
        headers
            .iter()
            .any(|h| h.split_once(": ").is_some_and(|(k, v)| k.eq_ignore_ascii_case("authorization") && v == a))
    });
    if !known {
        let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"camera\"\r\n";
        let _ = client.write_all(format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n").as_bytes());
        return;
    }
    let name = request.split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
    let body = if refuse { None } else { std::fs::read(root.join(name)).ok() };
    let (status, body) = body.map_or(("404 Not Found", Vec::new()), |b| ("200 OK", b));
    let kind = if name.ends_with(".m3u8") { "application/vnd.apple.mpegurl" } else { "video/mp2t" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = client.write_all(&[head.as_bytes(), &body].concat());
}
