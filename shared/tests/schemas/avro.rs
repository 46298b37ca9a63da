//! Avro's own library, and its JSON encoding, which that library does not have.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Datum;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::{Map, Value, json};
use shared::pubsub::Topic;
use shared::schema;

/// Every revision of a topic's schema, the oldest first.
pub(crate) fn revisions(topic: Topic) -> Vec<Schema> {
    schema::revisions(topic).iter().map(|revision| Schema::parse_str(revision).unwrap()).collect()
}

/// The newest revision.
pub(crate) fn newest(topic: Topic) -> Schema {
    revisions(topic).pop().unwrap()
}

/// A message in this schema: what the schema does not name is gone.
pub(crate) fn datum(schema: &Schema, message: &Value) -> Datum {
    Datum::try_from(message.clone()).unwrap().resolve(schema).unwrap()
}

/// What becomes of a message that is written by one schema and read by another, without what is null.
pub(crate) fn written_and_read(writer: &Schema, reader: &Schema, message: &Value) -> Value {
    let written = GenericDatumWriter::builder(writer).build().unwrap();
    let bytes = written.write_value_to_vec(datum(writer, message)).unwrap();
    let read = GenericDatumReader::builder(writer).reader_schema(reader).build().unwrap();
    let mut message = Value::try_from(read.read_value(&mut &*bytes).unwrap()).unwrap();
    drop_nulls(&mut message);
    message
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|_, member| !member.is_null());
        members.values_mut().for_each(drop_nulls);
    }
}

/// Avro's JSON encoding (<https://avro.apache.org/docs/1.12.0/specification/#json-encoding>): every field is there, and a
/// value of a union has its type's name around it.
pub(crate) fn encoded(schema: &Schema, datum: &Datum) -> Value {
    match (schema, datum) {
        (Schema::Union(union), Datum::Union(index, inner)) => {
            let branch = &union.variants()[*index as usize];
            let value = encoded(branch, inner);
            if value.is_null() { value } else { json!({branch_name(branch): value}) }
        }
        (Schema::Record(record), Datum::Record(members)) => {
            let members = record.fields.iter().zip(members);
            let members = members.map(|(field, (name, value))| (name.clone(), encoded(&field.schema, value)));
            Value::Object(members.collect::<Map<_, _>>())
        }
        (Schema::Array(array), Datum::Array(items)) => items.iter().map(|item| encoded(&array.items, item)).collect(),
        (_, plain) => Value::try_from(plain.clone()).unwrap(),
    }
}

fn branch_name(schema: &Schema) -> String {
    match schema {
        Schema::Record(record) => record.name.to_string(),
        Schema::Array(_) => "array".to_owned(),
        Schema::String => "string".to_owned(),
        Schema::Long => "long".to_owned(),
        Schema::Boolean => "boolean".to_owned(),
        other => panic!("our schemas have no {other:?} in a union"),
    }
}
