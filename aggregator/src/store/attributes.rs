//! Attributes in a column: a JSON object, so that people and other programs read them too.

use grapevine_protocol::{AttributeError, AttributeValue, Attributes};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde_json::{Map, Value};

pub(super) struct AttributesText(pub(super) Attributes);

impl ToSql for AttributesText {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(Value::Object(attributes_json(&self.0)).to_string().into())
    }
}

impl FromSql for AttributesText {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let object: Map<String, Value> =
            serde_json::from_str(value.as_str()?).map_err(|error| FromSqlError::Other(Box::new(error)))?;
        let mut attributes = Attributes::default();
        for (name, value) in object {
            let value = match value {
                Value::Bool(flag) => Ok(AttributeValue::Flag(flag)),
                Value::Number(number) => number.as_i64().map(AttributeValue::Number).ok_or(AttributeError::Text),
                Value::String(text) => AttributeValue::text(&text),
                Value::Null | Value::Array(_) | Value::Object(_) => Err(AttributeError::Text),
            };
            let inserted = value.and_then(|value| attributes.insert(&name, value));
            inserted.map_err(|error| FromSqlError::Other(Box::new(error)))?;
        }
        Ok(Self(attributes))
    }
}

/// Names and what they say.
pub fn attributes_json(attributes: &Attributes) -> Map<String, Value> {
    let value = |value: &AttributeValue| match value {
        AttributeValue::Flag(flag) => Value::from(*flag),
        AttributeValue::Number(number) => Value::from(*number),
        AttributeValue::Text(text) => Value::from(text.as_str()),
    };
    attributes.iter().map(|(name, attribute)| (name.to_owned(), value(attribute))).collect()
}
