//! Labels in a column: a JSON object, so that people and other programs read them too.

use grapevine_protocol::{LabelError, LabelValue, Labels};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde_json::{Map, Value};

pub(super) struct LabelsText(pub(super) Labels);

impl ToSql for LabelsText {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(Value::Object(labels_json(&self.0)).to_string().into())
    }
}

impl FromSql for LabelsText {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let object: Map<String, Value> =
            serde_json::from_str(value.as_str()?).map_err(|error| FromSqlError::Other(Box::new(error)))?;
        let mut labels = Labels::default();
        for (name, value) in object {
            let value = match value {
                Value::Bool(flag) => Ok(LabelValue::Flag(flag)),
                Value::Number(number) => number.as_i64().map(LabelValue::Number).ok_or(LabelError::Text),
                Value::String(text) => LabelValue::text(&text),
                Value::Null | Value::Array(_) | Value::Object(_) => Err(LabelError::Text),
            };
            let inserted = value.and_then(|value| labels.insert(&name, value));
            inserted.map_err(|error| FromSqlError::Other(Box::new(error)))?;
        }
        Ok(Self(labels))
    }
}

/// Names and what they say.
pub fn labels_json(labels: &Labels) -> Map<String, Value> {
    let value = |value: &LabelValue| match value {
        LabelValue::Flag(flag) => Value::from(*flag),
        LabelValue::Number(number) => Value::from(*number),
        LabelValue::Text(text) => Value::from(text.as_str()),
    };
    labels.iter().map(|(name, label)| (name.to_owned(), value(label))).collect()
}
