//! `mqtt`: results as messages to an MQTT 3.1.1 broker.

mod address;
mod courier;

use super::template::{Template, not_in_topics};
use super::units::{Secret, Span};
use super::{Sink, SinkConfig, SinkError};
use crate::frame::{Record, clock};
use crate::issue::Issue;
use crate::stage::BuildContext;
use address::Address;
use courier::{Courier, Plan};
use rumqttc::{LastWill, MqttOptions, QoS, TlsConfiguration, Transport};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// `kind = "mqtt"`: publishes every result to a broker.
///
/// The sink connects, and connects again, by itself. While the broker is away up to `buffer` results wait; what comes
/// beyond that is lost and counted.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// The broker: `mqtt://HOST[:1883]`, or `mqtts://HOST[:8883]` with TLS.
    url: String,
    /// Topic of a result. `{pipeline}` and `{stream}` are filled in.
    #[serde(default = "default_topic")]
    topic: String,
    /// Quality of service: 0 sends once and forgets, 1 (the default) sends until the broker confirms.
    #[serde(default = "one")]
    qos: u8,
    /// Whether the broker keeps the last result of each topic for later subscribers. Default false.
    #[serde(default)]
    retain: bool,
    /// User name. Default: none.
    #[serde(default)]
    user: Option<String>,
    /// Password; better from the environment: `"${MQTT_PASSWORD}"`. Default: none.
    #[serde(default)]
    password: Option<Secret>,
    /// Certificates that the broker's must descend from, a PEM file. Default: the system's.
    #[serde(default)]
    ca: Option<PathBuf>,
    /// Name of this client at the broker, where it must be unique. Default: made from the sink's id and the process.
    #[serde(default)]
    client_id: Option<String>,
    /// Longest silence on the connection before it is probed, 5 s or more. Default `"30s"`.
    #[serde(default = "half_a_minute")]
    keep_alive: Span,
    /// Topic that says `online` or `offline` (retained; the broker says `offline` for a process that died). `{sink}` is
    /// filled in. `""` for none. Default `"framegate/{sink}/availability"`.
    #[serde(default = "default_availability")]
    availability: String,
    /// Results that wait, at most, for the broker to come back or to confirm. Default 1000.
    #[serde(default = "thousand")]
    buffer: usize,
    /// Longest wait for room in the buffer while connected, and for confirmations at the end. Default `"500ms"`.
    #[serde(default = "half_a_second")]
    patience: Span,
}

fn default_topic() -> String {
    "framegate/{pipeline}/{stream}/result".to_owned()
}
fn default_availability() -> String {
    "framegate/{sink}/availability".to_owned()
}
fn one() -> u8 {
    1
}
fn thousand() -> usize {
    1000
}
fn half_a_minute() -> Span {
    Span(Duration::from_secs(30))
}
fn half_a_second() -> Span {
    Span(Duration::from_millis(500))
}

const TOPIC_NAMES: &[&str] = &["pipeline", "stream"];
const AVAILABILITY_NAMES: &[&str] = &["sink"];

/// Where systems keep the certificates they trust.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn read_topic(text: &str, names: &[&str]) -> Result<Template, String> {
    if text.is_empty() {
        return Err("a topic cannot be empty".to_owned());
    }
    if text.contains(['+', '#', '\0']) {
        return Err(format!("`{text}` has a wildcard; messages are published to one topic"));
    }
    Template::read(text, names)
}

impl MqttConfig {
    fn certificates(&self, context: &BuildContext) -> Result<PathBuf, SinkError> {
        match &self.ca {
            Some(ca) => context.find(ca).ok_or_else(|| SinkError(format!("`{}` does not exist", ca.display()))),
            None => std::env::var_os("SSL_CERT_FILE")
                .map(PathBuf::from)
                .into_iter()
                .chain(SYSTEM_CERTIFICATES.map(PathBuf::from))
                .find(|p| p.exists())
                .ok_or_else(|| SinkError("the system has no certificates; name the broker's in `ca`".to_owned())),
        }
    }

    fn availability(&self, id: &str) -> Result<Option<String>, SinkError> {
        if self.availability.is_empty() {
            return Ok(None);
        }
        let template = read_topic(&self.availability, AVAILABILITY_NAMES).map_err(SinkError)?;
        Ok(Some(template.fill(not_in_topics, |_| id.to_owned())))
    }

    fn options(&self, context: &BuildContext) -> Result<MqttOptions, SinkError> {
        let address = Address::read(&self.url).map_err(SinkError)?;
        let id = match &self.client_id {
            Some(id) => id.clone(),
            None => format!("framegate-{}-{:x}-{:x}", context.id, std::process::id(), clock::now() & 0xff_ffff_ffff),
        };
        let mut options = MqttOptions::new(id, address.host, address.port);
        options.set_keep_alive(self.keep_alive.0.max(SHORTEST_KEEP_ALIVE));
        options.set_max_packet_size(64 * 1024, MAX_PACKET);
        options.set_inflight(courier::IN_FLIGHT as u16);
        if let Some(user) = &self.user {
            options.set_credentials(user, self.password.as_ref().map_or("", |p| &p.0));
        }
        if let Some(topic) = self.availability(&context.id)? {
            options.set_last_will(LastWill::new(topic, courier::OFFLINE, QoS::AtLeastOnce, true));
        }
        if address.tls {
            // Whoever comes first chooses the process's cryptography; which one it is does not matter here.
            let _ = rumqttc::tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
            let path = self.certificates(context)?;
            let ca = std::fs::read(&path).map_err(|e| SinkError(format!("{}: {e}", path.display())))?;
            let tls = TlsConfiguration::Simple { ca, alpn: None, client_auth: None };
            options.set_transport(Transport::tls_with_config(tls));
        }
        Ok(options)
    }
}

/// The protocol's client refuses shorter ones.
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Largest message. Raw tensors and embeddings make results of megabytes.
const MAX_PACKET: usize = 64 << 20;

impl SinkConfig for MqttConfig {
    fn check(&self, context: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        let address = Address::read(&self.url);
        match &address {
            Err(e) => issues.push(Issue::error("url", e).help("write it like \"mqtt://127.0.0.1:1883\"")),
            Ok(a) if a.tls => {
                if let Err(e) = self.certificates(context) {
                    issues.push(Issue::error("ca", e.0));
                }
            }
            Ok(_) => {
                if self.ca.is_some() {
                    issues.push(Issue::warning("ca", "is not used without TLS").help("write mqtts:// in `url`"));
                }
                if self.password.is_some() && !address.as_ref().is_ok_and(Address::is_local) {
                    issues.push(
                        Issue::warning("password", "travels unencrypted to another machine")
                            .help("write mqtts:// in `url` if the broker offers TLS"),
                    );
                }
            }
        }
        if let Err(e) = read_topic(&self.topic, TOPIC_NAMES) {
            issues.push(Issue::error("topic", e));
        }
        if let Err(e) = self.availability(&context.id) {
            issues.push(Issue::error("availability", e.0));
        }
        if self.qos > 1 {
            issues.push(Issue::error("qos", format!("{} is not offered", self.qos)).help("0 or 1"));
        }
        if self.password.is_some() && self.user.is_none() {
            issues.push(Issue::error("password", "without `user`: MQTT 3.1.1 sends no password alone"));
        }
        if self.buffer == 0 {
            issues.push(Issue::error("buffer", "must hold at least one result"));
        }
        if self.client_id.as_ref().is_some_and(|id| id.is_empty() || id.starts_with(' ')) {
            issues.push(Issue::error("client_id", "must not be empty or begin with a space"));
        }
        if self.keep_alive.0 < SHORTEST_KEEP_ALIVE {
            issues.push(Issue::error("keep_alive", "is shorter than 5 s"));
        }
        issues
    }

    fn open(&self, context: &BuildContext) -> Result<Box<dyn Sink>, SinkError> {
        super::refuse(self, context)?;
        let plan = Plan {
            options: self.options(context)?,
            availability: self.availability(&context.id)?,
            buffer: self.buffer,
            patience: self.patience.0,
            sink: context.id.clone(),
        };
        Ok(Box::new(MqttSink {
            topic: read_topic(&self.topic, TOPIC_NAMES).map_err(SinkError)?,
            qos: if self.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce },
            retain: self.retain,
            courier: Courier::start(plan)?,
        }))
    }
}

struct MqttSink {
    topic: Template,
    qos: QoS,
    retain: bool,
    courier: Courier,
}

impl Sink for MqttSink {
    fn deliver(&mut self, record: &Arc<Record>) -> Result<(), SinkError> {
        let topic = self.topic.fill(not_in_topics, |name| match name {
            "pipeline" => record.pipeline.to_string(),
            _ => record.stream.id.to_string(),
        });
        let mut payload = Vec::with_capacity(1024);
        record.write_json(&mut payload);
        if payload.len() + topic.len() + 16 > MAX_PACKET {
            return Err(SinkError(format!("the result has {} bytes, a message at most {MAX_PACKET}", payload.len())));
        }
        self.courier.send(topic, payload, self.qos, self.retain)
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.courier.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issues(text: &str) -> Vec<String> {
        let context = BuildContext { id: "mqtt".into(), ..Default::default() };
        let config: MqttConfig = toml::from_str(text).unwrap();
        config.check(&context).into_iter().map(|i| i.key).collect()
    }

    #[test]
    fn a_plain_configuration_has_no_issues() {
        assert_eq!(issues("url = \"mqtt://127.0.0.1\""), [] as [&str; 0]);
    }

    #[test]
    fn what_cannot_work_is_said_by_key() {
        assert_eq!(issues("url = \"http://127.0.0.1\""), ["url"]);
        assert_eq!(issues("url = \"mqtt://127.0.0.1\"\ntopic = \"a/{cam}\"\nqos = 2"), ["topic", "qos"]);
        assert_eq!(issues("url = \"mqtt://127.0.0.1\"\ntopic = \"a/#\"\nbuffer = 0"), ["topic", "buffer"]);
        assert_eq!(issues("url = \"mqtt://127.0.0.1\"\navailability = \"{stream}\""), ["availability"]);
        assert_eq!(issues("url = \"mqtts://127.0.0.1\"\nca = \"no-such-file.pem\""), ["ca"]);
        assert_eq!(issues("url = \"mqtt://192.0.2.1\"\nuser = \"u\"\npassword = \"p\""), ["password"]);
        assert_eq!(
            issues("url = \"mqtt://127.0.0.1\"\nkeep_alive = \"1s\"\nclient_id = \"\""),
            ["client_id", "keep_alive"]
        );
    }

    #[test]
    fn the_password_does_not_show() {
        let config: MqttConfig = toml::from_str("url = \"mqtt://h\"\nuser = \"u\"\npassword = \"hush\"").unwrap();
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(
            toml::from_str::<MqttConfig>("url = \"mqtt://h\"\nqso = 1").is_err_and(|e| e.message().contains("qso"))
        );
    }
}
