//! A PostgreSQL server of a test's own: on loopback, in a temporary folder, with a password.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The password of its user `postgres`.
pub const PASSWORD: &str = "only/for tests:1";

/// A server.
pub struct Postgres {
    folder: tempfile::TempDir,
    programs: PathBuf,
    /// Whom it runs as, where the test is root: PostgreSQL refuses to.
    user: Option<(u32, u32)>,
    port: u16,
    process: Option<Child>,
}

/// The folder with PostgreSQL's programs: the newest of Debian's, or the path's.
fn programs() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|v| v.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut debian: Vec<PathBuf> = debian.collect();
    debian.sort();
    debian.into_iter().rev().chain(std::env::split_paths(&path)).find(|p| p.join("initdb").exists())
}

fn user_postgres() -> (u32, u32) {
    let passwd = std::fs::read_to_string("/etc/passwd").expect("the system's users");
    let line = passwd.lines().find(|l| l.starts_with("postgres:")).expect("PostgreSQL's package makes its user");
    let mut ids = line.split(':').skip(2).map(|n| n.parse().expect("a number"));
    (ids.next().expect("uid"), ids.next().expect("gid"))
}

impl Postgres {
    /// Starts one. Where PostgreSQL is not installed: a line that starts with `SKIPPED`, and `None`.
    ///
    /// # Panics
    /// It does not start, or it is not installed and `CI=true`.
    pub fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "no PostgreSQL: scripts/setup test installs it");
            eprintln!("SKIPPED: no PostgreSQL");
            return None;
        };
        let user = rustix::process::getuid().is_root().then(user_postgres);
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
        let secret = folder.path().join("password");
        std::fs::write(&secret, PASSWORD).expect("written");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("made");
        if let Some((uid, gid)) = user {
            chown(&data, Some(uid), Some(gid)).expect("root may");
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let mut server = Self { folder, programs, user, port, process: None };
        let output = server
            .program("initdb")
            .args(["--username=postgres", "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"])
            .arg(format!("--pwfile={}", secret.display()))
            .output()
            .expect("initdb runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        server.run();
        Some(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.arg("-D").arg(self.data()).current_dir("/").stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Starts it again after [`kill`](Self::kill).
    pub fn run(&mut self) {
        let begun = Instant::now();
        loop {
            let child = self
                .program("postgres")
                .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
                .arg("-c")
                .arg(format!("unix_socket_directories={}", self.data().display()))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let mut child = child.expect("postgres runs");
            // It ends at once where helpers of a killed one are still there.
            while child.try_wait().expect("a child").is_none() {
                if ::postgres::Client::connect(&self.url(), ::postgres::NoTls).is_ok() {
                    self.process = Some(child);
                    return;
                }
                assert!(begun.elapsed() < Duration::from_secs(60), "PostgreSQL does not answer");
                std::thread::sleep(Duration::from_millis(50));
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "PostgreSQL does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Where it is, without the password.
    pub fn address(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Where it is, with the password.
    pub fn url(&self) -> String {
        format!("postgres://postgres:only%2Ffor%20tests%3A1@127.0.0.1:{}/postgres", self.port)
    }

    /// A connection to look into it.
    pub fn client(&self) -> ::postgres::Client {
        ::postgres::Client::connect(&self.url(), ::postgres::NoTls).expect("connects")
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("ours");
            process.wait().expect("ended");
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            if let Some(id) = rustix::process::Pid::from_raw(process.id() as i32) {
                // At once, helpers too.
                let _ = rustix::process::kill_process(id, rustix::process::Signal::QUIT);
            }
            let _ = process.wait();
        }
    }
}
