//! What may be asked of a store, and how it is asked: by key, never by offset.

use super::StoreError;
use crate::cache::Key;
use std::fmt::Write as _;

/// Results on a page, at most.
pub const MOST: usize = 1000;

/// A place between two results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// When the last result of the page was captured, microseconds since 1970.
    pub time: i64,
    /// Its key.
    pub id: i64,
}

/// What results are asked for. All conditions hold together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter {
    /// Of this stream.
    pub stream: Option<String>,
    /// Captured then or later, microseconds since 1970.
    pub from: Option<i64>,
    /// Captured before, microseconds since 1970.
    pub to: Option<i64>,
    /// Made of this station's signal, among others.
    pub station: Option<String>,
    /// Located at this frequency or higher, hertz.
    pub min_frequency: Option<f64>,
    /// Located at this frequency or lower, hertz.
    pub max_frequency: Option<f64>,
    /// Located with this confidence or more, 0 to 1.
    pub min_confidence: Option<f64>,
}

/// A page of results.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Which results.
    pub filter: Filter,
    /// The newest first, or the oldest.
    pub newest: bool,
    /// Behind this place.
    pub after: Option<Mark>,
    /// Results on the page, 1 to [`MOST`].
    pub limit: usize,
    /// What of each result; `None` for all of it.
    pub fields: Option<super::Fields>,
}

/// A value in a statement.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Int(i64),
    Real(f64),
    Text(String),
}

/// How rows are found, in a database that does not see from the values which way is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The database decides.
    Planned,
    /// In the order of time, until the page is full.
    Time,
    /// By frequency, and then sorted.
    Frequency,
    /// By confidence, and then sorted.
    Confidence,
}

impl Way {
    /// The column, so marked that no index is used for it on another way: SQLite uses none for a signed column.
    fn column(self, own: Self, name: &str) -> String {
        if self == Self::Planned || self == own { name.to_owned() } else { format!("+{name}") }
    }
}

/// A statement with its values, numbered `$1`, `$2`, … in the order of their appearance.
pub(super) struct Statement {
    pub text: String,
    pub values: Vec<Value>,
}

impl Statement {
    fn condition(&mut self, column: &str, operator: &str, value: Value) {
        self.values.push(value);
        let word = if self.text.contains(" WHERE ") { "AND" } else { "WHERE" };
        let _ = write!(self.text, " {word} {column} {operator} ${}", self.values.len());
    }
}

impl Query {
    /// The statement for one result more than the page has, so that it is seen whether there is a next page. Columns:
    /// id, time, record.
    pub(super) fn statement(&self, way: Way) -> Statement {
        let f = &self.filter;
        let (time, id, from) = match f.station {
            // The order of the tables is the one in which SQLite takes them.
            Some(_) => ("h.time".to_owned(), "h.result", "heard h CROSS JOIN results r WHERE r.id = h.result"),
            None => (way.column(Way::Time, "r.time"), "r.id", "results r"),
        };
        let (time, stream) = (&*time, way.column(Way::Time, "r.stream"));
        let mut s = Statement { text: format!("SELECT {id}, {time}, r.record FROM {from}"), values: Vec::new() };
        if let Some(station) = &f.station {
            s.condition("h.station", "=", Value::Text(station.clone()));
        }
        if let Some(wanted) = &f.stream {
            s.condition(&stream, "=", Value::Text(wanted.clone()));
        }
        if let Some(from) = f.from {
            s.condition(time, ">=", Value::Int(from));
        }
        if let Some(to) = f.to {
            s.condition(time, "<", Value::Int(to));
        }
        if let Some(mark) = self.after {
            // The first condition is one that every index on time can use; the second decides among equal times.
            let (at, beyond) = if self.newest { ("<=", "<") } else { (">=", ">") };
            s.condition(time, at, Value::Int(mark.time));
            let n = s.values.len();
            s.values.push(Value::Int(mark.time));
            s.values.push(Value::Int(mark.id));
            let _ = write!(s.text, " AND ({time}, {id}) {beyond} (${}, ${})", n + 1, n + 2);
        }
        for (own, column, operator, value) in [
            (Way::Frequency, "r.frequency", ">=", f.min_frequency),
            (Way::Frequency, "r.frequency", "<=", f.max_frequency),
            (Way::Confidence, "r.confidence", ">=", f.min_confidence),
        ] {
            if let Some(value) = value {
                s.condition(&way.column(own, column), operator, Value::Real(value));
            }
        }
        s.values.push(Value::Int(self.limit as i64 + 1));
        let order = if self.newest { "DESC" } else { "ASC" };
        let _ = write!(s.text, " ORDER BY {time} {order}, {id} {order} LIMIT ${}", s.values.len());
        s
    }

    /// The place behind the last result of a page, as text for whoever asks for the next one.
    pub(super) fn cursor(&self, mark: Mark) -> String {
        let mut bytes = Vec::with_capacity(CURSOR_BYTES);
        bytes.extend(mark.time.to_be_bytes());
        bytes.extend(mark.id.to_be_bytes());
        bytes.extend(self.proof(mark));
        bytes.iter().fold(String::with_capacity(2 * CURSOR_BYTES), |mut text, b| {
            let _ = write!(text, "{b:02x}");
            text
        })
    }

    /// Goes on behind the place that a cursor names.
    ///
    /// # Errors
    /// It is no cursor, or one of another question, in words.
    pub fn resume(&mut self, cursor: &str) -> Result<(), String> {
        let wrong = || "is no cursor of this server: take it from `next` of the page before".to_owned();
        let digits = cursor.as_bytes();
        if digits.len() != 2 * CURSOR_BYTES {
            return Err(wrong());
        }
        let mut bytes = [0; CURSOR_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
            *byte = digit(pair[0]).zip(digit(pair[1])).map(|(high, low)| high << 4 | low).ok_or_else(wrong)?;
        }
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            i64::from_be_bytes(eight)
        };
        let mark = Mark { time: number(0), id: number(8) };
        if self.proof(mark) != bytes[16..] {
            return Err("belongs to another question: filters and order stay the same from page to page".to_owned());
        }
        self.after = Some(mark);
        Ok(())
    }

    /// Binds a cursor to filters and order.
    fn proof(&self, mark: Mark) -> [u8; PROOF_BYTES] {
        let asked = format!("{:?} {} {mark:?}", self.filter, self.newest);
        let mut proof = [0; PROOF_BYTES];
        proof.copy_from_slice(&Key::of(&[b"cursor", asked.as_bytes()]).bytes()[..PROOF_BYTES]);
        proof
    }
}

const PROOF_BYTES: usize = 8;
const CURSOR_BYTES: usize = 16 + PROOF_BYTES;

/// A database as one who asks sees it.
pub(super) trait Reading: Send {
    /// Gives the page's results in order, and one more where there is one.
    ///
    /// # Errors
    /// The database is away, or the answer took too long.
    fn read(&mut self, query: &Query, each: &mut dyn FnMut(Mark, &str)) -> Result<(), StoreError>;
}

/// The page as JSON: `{"results":[…],"next":"…"}`, `next` is null on the last one.
pub(super) fn page(database: &mut dyn Reading, query: &Query) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::with_capacity(query.limit.min(64) * 600);
    out.extend(b"{\"results\":[");
    let (mut n, mut last, mut more) = (0, None, false);
    database.read(query, &mut |mark, record| {
        if n == query.limit {
            more = true;
            return;
        }
        if n > 0 {
            out.push(b',');
        }
        n += 1;
        last = Some(mark);
        match &query.fields {
            None => out.extend(record.as_bytes()),
            Some(fields) => fields.pick(record, &mut out),
        }
    })?;
    match last.filter(|_| more) {
        Some(mark) => {
            out.extend(b"],\"next\":\"");
            out.extend(query.cursor(mark).as_bytes());
            out.extend(b"\"}");
        }
        None => out.extend(b"],\"next\":null}"),
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> Query {
        Query { filter: Filter::default(), newest: true, after: None, limit: 50, fields: None }
    }

    #[test]
    fn a_cursor_leads_back_to_its_place_for_the_same_question_only() {
        let mark = Mark { time: -5, id: i64::MAX };
        let cursor = query().cursor(mark);
        let mut same = Query { limit: 7, ..query() };
        same.resume(&cursor).unwrap();
        assert_eq!(same.after, Some(mark));
        let mut other = Query { newest: false, ..query() };
        assert!(other.resume(&cursor).is_err_and(|e| e.contains("another question")));
        let mut other = Query { filter: Filter { station: Some("a".into()), ..Filter::default() }, ..query() };
        assert!(other.resume(&cursor).is_err());
        let forged = cursor.replacen('0', "1", 1);
        for bad in ["", "abc", &cursor[1..], &forged, &"é".repeat(24), &"zz".repeat(24)] {
            assert!(query().resume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_are_never_part_of_the_statement() {
        let nasty = "'; DROP TABLE results; --";
        let filter = Filter { stream: Some(nasty.into()), station: Some(nasty.into()), ..Filter::default() };
        let s = Query { filter, ..query() }.statement(Way::Planned);
        assert!(!s.text.contains("DROP"), "{}", s.text);
        assert!(s.values.contains(&Value::Text(nasty.into())));
    }
}
