//! Questions to a PostgreSQL database.

use super::connect;
use crate::store::StoreError;
use crate::store::query::{Mark, Query, Reading, Value, Way};
use ::postgres::types::{ToSql, Type};
use ::postgres::{Client, Config, Statement};
use std::collections::HashMap;
use std::time::Duration;

/// How long a question may take.
const LONGEST: Duration = Duration::from_secs(5);
/// Statements kept prepared; there are fewer shapes of questions that people ask.
const PREPARED: usize = 256;

/// A reading connection.
pub struct Reader {
    client: Client,
    prepared: HashMap<String, Statement>,
}

impl Reader {
    /// Connects.
    ///
    /// # Errors
    /// The server is away or refuses.
    pub fn open(config: &Config) -> Result<Self, StoreError> {
        let mut client = connect(config, LONGEST)?;
        client.batch_execute("SET default_transaction_read_only = on")?;
        Ok(Self { client, prepared: HashMap::new() })
    }
}

impl Reading for Reader {
    fn read(&mut self, query: &Query, each: &mut dyn FnMut(Mark, &str)) -> Result<(), StoreError> {
        let statement = query.statement(Way::Planned);
        if self.prepared.len() >= PREPARED {
            self.prepared.clear();
        }
        let prepared = match self.prepared.get(&statement.text) {
            Some(prepared) => prepared.clone(),
            None => {
                let types: Vec<Type> = statement
                    .values
                    .iter()
                    .map(|v| match v {
                        Value::Int(_) => Type::INT8,
                        Value::Real(_) => Type::FLOAT8,
                        Value::Text(_) => Type::TEXT,
                    })
                    .collect();
                let prepared = self.client.prepare_typed(&statement.text, &types)?;
                self.prepared.insert(statement.text, prepared.clone());
                prepared
            }
        };
        let values: Vec<&(dyn ToSql + Sync)> = statement
            .values
            .iter()
            .map(|v| match v {
                Value::Int(n) => n as &(dyn ToSql + Sync),
                Value::Real(x) => x,
                Value::Text(t) => t,
            })
            .collect();
        for row in self.client.query(&prepared, &values)? {
            each(Mark { id: row.try_get(0)?, time: row.try_get(1)? }, row.try_get(2)?);
        }
        Ok(())
    }
}
