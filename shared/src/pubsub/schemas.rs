//! The topics' schemas: registered, kept in step with ours, and attached. Nothing here deletes, detaches or replaces.
//!
//! No schema stops the payments: what goes wrong here is logged and tried again, and a topic gets its schema only from a
//! service that lets plain JSON pass it.

use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::paginator::ItemPaginator as _;
use google_cloud_pubsub::model::{self, Encoding, Schema, SchemaSettings, SchemaView, schema::Type};
use google_cloud_wkt::FieldMask;
use serde_json::{Value, json};

use super::google::{PubSub, in_time};
use super::{Error, Topic, has_code};
use crate::schema;

/// What Pub/Sub calls the schema of a topic whose schema was deleted.
const DELETED: &str = "_deleted-schema_";

/// Which schemas are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Those that are not attached.
    Missing,
    /// Also the others, for revisions that they lack.
    Every,
}

impl PubSub {
    /// Puts the schemas in place, with every revision that we know, where that is wanted.
    pub(super) async fn keep_schemas(&self, look: Look) {
        if !self.with_schemas {
            return;
        }
        for topic in Topic::LIVE {
            if let Err(error) = self.keep_schema(topic, look).await {
                tracing::warn!(topic = topic.name(), %error, "the topic's schema is not in place, will be tried again");
            }
        }
    }

    async fn keep_schema(&self, topic: Topic, look: Look) -> Result<(), Error> {
        let now = in_time(self.topics.get_topic().set_topic(self.topic(topic)).send()).await?.schema_settings;
        let other = now.as_ref().map(|settings| &*settings.schema).filter(|schema| *schema != self.schema(topic));
        let attached = match other {
            None => now.is_some(),
            Some(DELETED) => false,
            Some(other) => return Err(Error::OtherSchema { topic, schema: other.to_owned() }),
        };
        if !attached || look == Look::Every {
            self.register(topic).await?;
        }
        if !attached {
            self.require_plain_json_to_pass(topic).await?;
            self.attach(topic).await?;
            tracing::info!(topic = topic.name(), "schema attached");
        }
        Ok(())
    }

    /// Registers what is missing of the schema. A service that is older than the registered schema finds nothing to add.
    async fn register(&self, topic: Topic) -> Result<(), Error> {
        let ours = schema::revisions(topic);
        let Some(mut theirs) = self.registered(topic).await? else {
            let (parent, first) = (format!("projects/{}", self.project), avro(String::new(), ours[0]));
            let create = self.schemas.create_schema().set_parent(parent).set_schema_id(topic.name()).set_schema(first);
            // Whoever was faster registers the rest; if they die over it, the next look finds that.
            return match in_time(create.send()).await {
                Err(Error::Call(error)) if has_code(&error, Code::AlreadyExists) => Ok(()),
                Err(error) => Err(error),
                Ok(_) => self.commit(topic, &ours[1..]).await,
            };
        };
        theirs.sort_unstable();
        let missing = ours.iter().filter(|revision| theirs.binary_search(&canonical(revision)).is_err());
        self.commit(topic, &missing.copied().collect::<Vec<_>>()).await
    }

    /// The revisions that are registered; `None` if there is no schema.
    async fn registered(&self, topic: Topic) -> Result<Option<Vec<String>>, Error> {
        // The emulator never answers a query that has a number for a word, which is how the client writes the ones it
        // knows; but it cuts a query at `&` after it has decoded it.
        let view = if self.emulated { SchemaView::from("FULL&") } else { SchemaView::Full };
        let list = self.schemas.list_schema_revisions().set_name(self.schema(topic)).set_view(view);
        let revisions = in_time(async {
            let (mut items, mut revisions) = (list.by_item(), Vec::new());
            while let Some(revision) = items.next().await.transpose()? {
                revisions.push(canonical(&revision.definition));
            }
            Ok(revisions)
        });
        match revisions.await {
            Ok(revisions) => Ok(Some(revisions)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn commit(&self, topic: Topic, revisions: &[&str]) -> Result<(), Error> {
        for revision in revisions {
            let schema = avro(self.schema(topic), revision);
            let commit = self.schemas.commit_schema().set_name(self.schema(topic)).set_schema(schema);
            match in_time(commit.send()).await {
                Err(Error::Call(error)) if has_code(&error, Code::AlreadyExists) => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// A service that refused fields which the first revision does not name would refuse all that we publish.
    async fn require_plain_json_to_pass(&self, topic: Topic) -> Result<(), Error> {
        let first = schema::revisions(topic)[0];
        let validate = self
            .schemas
            .validate_message()
            .set_parent(format!("projects/{}", self.project))
            .set_schema(avro(String::new(), first))
            .set_encoding(Encoding::Json)
            .set_message(plain_message(first));
        in_time(validate.send()).await.map(drop).map_err(|error| {
            if error.is_refusal() { Error::PlainJsonRefused { topic, source: Box::new(error) } } else { error }
        })
    }

    async fn attach(&self, topic: Topic) -> Result<(), Error> {
        let settings = SchemaSettings::new().set_schema(self.schema(topic)).set_encoding(Encoding::Json);
        let update = self
            .topics
            .update_topic()
            .set_topic(model::Topic::new().set_name(self.topic(topic)).set_schema_settings(settings))
            .set_update_mask(FieldMask::default().set_paths(["schema_settings"]));
        in_time(update.send()).await.map(drop)
    }

    fn schema(&self, topic: Topic) -> String {
        format!("projects/{}/schemas/{topic}", self.project)
    }
}

fn avro(name: String, definition: &str) -> Schema {
    Schema::new().set_name(name).set_type(Type::Avro).set_definition(definition)
}

/// A definition without its layout, to compare it.
fn canonical(definition: &str) -> String {
    serde_json::from_str::<Value>(definition).map_or_else(|_| definition.to_owned(), |value| value.to_string())
}

/// A message with what a first revision asks for, all of it text, and fields that it does not name.
fn plain_message(first: &str) -> Vec<u8> {
    let first: Value = serde_json::from_str(first).expect("our schemas are JSON");
    let mut message = json!({"another": "field", "one_more": {"of": ["a", "stranger"]}});
    for field in first["fields"].as_array().into_iter().flatten() {
        message[field["name"].as_str().unwrap_or_default()] = "text".into();
    }
    message.to_string().into_bytes()
}
