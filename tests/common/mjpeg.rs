//! An HTTP camera: one JPEG after the other in a multipart answer.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use framegate::frame::clock;
use opencv::core::{CV_8UC3, Mat, Scalar, Vector};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
struct Shared {
    sent: Mutex<Vec<u64>>,
    generation: AtomicU64,
    stop: AtomicBool,
}

/// A camera at work, at 25 frames per second.
pub struct Server {
    port: u16,
    shared: Arc<Shared>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.stop.load(Relaxed) {
                    return;
                }
                let shared = serving.clone();
                std::thread::spawn(move || serve(client, &shared));
            }
        });
        Self { port, shared }
    }

    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}/video", self.port)
    }

    /// When each picture was sent.
    pub fn sent(&self) -> Vec<u64> {
        self.shared.sent.lock().expect("no panic").clone()
    }

    /// Closes all connections.
    pub fn drop_clients(&self) {
        self.shared.generation.fetch_add(1, Relaxed);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        self.drop_clients();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(mut client: TcpStream, shared: &Shared) {
    let mine = shared.generation.load(Relaxed);
    let _ = client.read(&mut [0; 4096]);
    let _ = client.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace;boundary=frame\r\n\r\n");
    for n in 0u64.. {
        if shared.generation.load(Relaxed) != mine {
            return;
        }
        let shade = (n * 5 % 200) as f64;
        let picture = Mat::new_rows_cols_with_default(240, 320, CV_8UC3, Scalar::new(shade, 90.0, 255.0 - shade, 0.0));
        let mut jpeg = Vector::<u8>::new();
        opencv::imgcodecs::imencode(".jpg", &picture.expect("a picture"), &mut jpeg, &Vector::new()).expect("encodes");
        let head = format!("--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", jpeg.len());
        shared.sent.lock().expect("no panic").push(clock::now());
        let parts = [head.as_bytes(), jpeg.as_slice(), b"\r\n"].concat();
        if client.write_all(&parts).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(40));
    }
}
