//! Where a broker is.

/// A broker's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Name or number of the host; IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

impl Address {
    /// Reads `mqtt://HOST[:PORT]` or `mqtts://HOST[:PORT]`.
    ///
    /// # Errors
    /// What is wrong with it. The text is not repeated: it may hold a password.
    pub fn read(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("has no scheme; there is mqtt:// and mqtts://")?;
        let tls = match scheme {
            "mqtt" | "tcp" => false,
            "mqtts" | "ssl" => true,
            other => return Err(format!("the scheme `{other}` is not MQTT's; there is mqtt:// and mqtts://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err("holds credentials; put them in `user` and `password`".to_owned());
        }
        if rest.contains(['/', '?', '#']) {
            return Err("holds more than host and port; the topic stands in `topic`".to_owned());
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or("`[` without `]`")?;
                (host, after.strip_prefix(':'))
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() {
            return Err("names no host".to_owned());
        }
        let port = match port {
            None => [1883, 8883][tls as usize],
            Some(text) => match text.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(format!("`{text}` is no port (1 to 65535)")),
            },
        };
        Ok(Self { host: host.to_owned(), port, tls })
    }

    /// Whether it is on this machine.
    pub fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let read = |t| Address::read(t).map(|a| (a.host, a.port, a.tls));
        assert_eq!(read("mqtt://broker.example"), Ok(("broker.example".into(), 1883, false)));
        assert_eq!(read("mqtts://10.0.0.1/"), Ok(("10.0.0.1".into(), 8883, true)));
        assert_eq!(read("mqtt://[::1]:18830"), Ok(("::1".into(), 18830, false)));
        for bad in
            ["", "broker", "http://b", "mqtt://", "mqtt://b:0", "mqtt://b:99999", "mqtt://b/topic", "mqtt://[::1"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read("mqtt://user:hush@b").is_err_and(|e| !e.contains("hush")));
    }

    #[test]
    fn loopback_is_local() {
        assert!(Address::read("mqtt://127.0.0.2").unwrap().is_local());
        assert!(Address::read("mqtt://[::1]").unwrap().is_local());
        assert!(!Address::read("mqtt://192.0.2.1").unwrap().is_local());
    }
}
