//! A client that keeps its connections, and one that asks at fixed times.

use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

/// What is asked.
#[derive(Clone)]
pub struct Question {
    path: String,
    packing: String,
    /// With the tag of the last answer to the same.
    pub tagged: bool,
}

impl Question {
    pub fn new(query: &str, packing: &str) -> Self {
        Self { path: format!("/api/v1/results?{query}"), packing: packing.to_owned(), tagged: false }
    }
}

/// What came.
pub struct Answer {
    pub status: u16,
    pub tag: Option<String>,
    pub body: Vec<u8>,
}

/// A connection.
pub struct Client {
    stream: TcpStream,
    read: Vec<u8>,
    tags: HashMap<String, String>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::with_capacity(1 << 17), tags: HashMap::new() })
    }

    pub async fn ask(&mut self, question: &Question) -> Result<Answer> {
        let known = format!("{}{}", question.path, question.packing);
        let tag = self.tags.get(&known).filter(|_| question.tagged);
        let tag = tag.map(|t| format!("If-None-Match: {t}\r\n")).unwrap_or_default();
        let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n{}{tag}\r\n", question.path, question.packing);
        self.stream.write_all(request.as_bytes()).await?;
        self.read.clear();
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            self.more().await?;
        };
        let head = std::str::from_utf8(&self.read[..end])?.to_ascii_lowercase();
        let header = |name: &str| head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
        let status: u16 = head.split(' ').nth(1).context("a status")?.parse()?;
        let tag = header("etag").map(str::to_owned);
        let length: usize = match status {
            304 => 0,
            _ => header("content-length").context("a length")?.parse()?,
        };
        while self.read.len() < end + 4 + length {
            self.more().await?;
        }
        if let Some(tag) = &tag {
            self.tags.insert(known, tag.clone());
        }
        Ok(Answer { status, tag, body: self.read[end + 4..].to_vec() })
    }

    async fn more(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.read).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }
}

/// What a run of questions took.
#[derive(Default)]
pub struct Times {
    /// From when each was due.
    pub milliseconds: Vec<f64>,
    pub not_modified: usize,
    /// Neither answered nor "not modified".
    pub refused: usize,
}

/// Asks `rate` questions a second, each by the first connection that is free.
pub async fn load(
    address: SocketAddr,
    questions: Vec<Question>,
    connections: usize,
    rate: u64,
    length: Duration,
) -> Result<Times> {
    let (due, waiting) = mpsc::unbounded_channel::<(Instant, usize)>();
    let waiting = Arc::new(Mutex::new(waiting));
    let questions = Arc::new(questions);
    let mut workers = Vec::new();
    for _ in 0..connections {
        let mut client = Client::connect(address).await?;
        let (waiting, questions) = (waiting.clone(), questions.clone());
        workers.push(tokio::spawn(async move {
            let mut times = Times::default();
            loop {
                let next = waiting.lock().await.recv().await;
                let Some((at, n)) = next else { return Ok::<Times, anyhow::Error>(times) };
                let answer = client.ask(&questions[n]).await?;
                times.milliseconds.push(at.elapsed().as_secs_f64() * 1e3);
                match answer.status {
                    200 if answer.tag.is_some() => {}
                    304 => times.not_modified += 1,
                    _ => times.refused += 1,
                }
            }
        }));
    }
    let begun = Instant::now();
    let all = rate * length.as_secs();
    for n in 0..all {
        let at = begun + Duration::from_nanos(n * 1_000_000_000 / rate);
        if at > Instant::now() {
            tokio::time::sleep_until(at).await;
        }
        // The workers are there until the sender is gone.
        let _ = due.send((at, n as usize % questions.len()));
    }
    drop(due);
    let mut sum = Times::default();
    for worker in workers {
        let times = worker.await??;
        sum.milliseconds.extend(times.milliseconds);
        sum.not_modified += times.not_modified;
        sum.refused += times.refused;
    }
    Ok(sum)
}
