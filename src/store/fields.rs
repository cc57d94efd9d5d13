//! Which keys of a result are wanted.

use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Keys of a result, dotted for those inside others: `seq`, `location.lat`. In a list the key is taken of each element.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fields(BTreeMap<String, Self>);

/// Keys that may be named, and parts of one.
const MOST_KEYS: usize = 64;
const MOST_PARTS: usize = 8;

impl Fields {
    /// Reads a list such as `seq,location.lat`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut fields = Self::default();
        for (n, dotted) in text.split(',').enumerate() {
            let parts: Vec<&str> = dotted.split('.').collect();
            if parts.iter().any(|p| p.is_empty()) {
                return Err(format!("`{dotted}` names no key: write keys like `seq,location.lat`"));
            }
            if n >= MOST_KEYS || parts.len() > MOST_PARTS {
                return Err(format!("names more than {MOST_KEYS} keys, or one with more than {MOST_PARTS} parts"));
            }
            fields.add(&parts);
        }
        Ok(fields)
    }

    fn add(&mut self, parts: &[&str]) {
        let Some((first, rest)) = parts.split_first() else { return };
        let known = self.0.contains_key(*first);
        let inner = self.0.entry((*first).to_owned()).or_default();
        match rest {
            // All of it, whatever was said of its parts.
            [] => inner.0.clear(),
            // A key that is wanted as a whole stays whole.
            _ if known && inner.0.is_empty() => {}
            _ => inner.add(rest),
        }
    }

    /// Appends what is wanted of a record, as a JSON object. Keys that the record lacks are left out.
    pub(super) fn pick(&self, record: &str, out: &mut Vec<u8>) {
        // What the store holds it wrote itself; a record that somebody else broke has no keys.
        let keys: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(record).unwrap_or_default();
        out.push(b'{');
        let begin = out.len();
        for (name, inner) in &self.0 {
            let Some(raw) = keys.get(name.as_str()) else { continue };
            let picked = match inner.0.is_empty() {
                true => Cow::Borrowed(raw.get()),
                false => match serde_json::from_str(raw.get()).ok().and_then(|v| inner.narrow(v)) {
                    Some(value) => Cow::Owned(value.to_string()),
                    None => continue,
                },
            };
            if out.len() > begin {
                out.push(b',');
            }
            out.extend(Value::from(name.as_str()).to_string().as_bytes());
            out.push(b':');
            out.extend(picked.as_bytes());
        }
        out.push(b'}');
    }

    fn narrow(&self, value: Value) -> Option<Value> {
        match value {
            whole if self.0.is_empty() => Some(whole),
            Value::Object(mut map) => {
                let picked = |(name, inner): (&String, &Self)| Some((name.clone(), inner.narrow(map.remove(name)?)?));
                Some(Value::Object(self.0.iter().filter_map(picked).collect()))
            }
            Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(|v| self.narrow(v)).collect())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"seq":7,"at":"a\"b","location":{"lat":1.50,"lon":2,"stations":["n"]},
        "detections":[{"label":"x","score":0.5},{"label":"y"}]}"#;

    fn pick(fields: &str) -> String {
        let mut out = Vec::new();
        Fields::read(fields).unwrap().pick(RECORD, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn keys_are_taken_as_they_stand_and_parts_of_them() {
        assert_eq!(pick("seq,at"), r#"{"at":"a\"b","seq":7}"#);
        assert_eq!(pick("location.lat,location.stations"), r#"{"location":{"lat":1.5,"stations":["n"]}}"#);
        assert_eq!(pick("location.lat,location"), r#"{"location":{"lat":1.50,"lon":2,"stations":["n"]}}"#);
        assert_eq!(pick("location,location.lat"), r#"{"location":{"lat":1.50,"lon":2,"stations":["n"]}}"#);
        assert_eq!(pick("detections.score"), r#"{"detections":[{"score":0.5},{}]}"#);
        assert_eq!(pick("none,seq.deeper"), "{}");
    }

    #[test]
    fn what_names_no_key_is_refused() {
        for bad in ["", "a,", "a..b", ".", &["k"; 65].join(","), &["k"; 9].join(".")] {
            assert!(Fields::read(bad).is_err(), "{bad}");
        }
    }
}
