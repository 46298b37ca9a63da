//! The emulator's REST interface: how tests look at topics, publish as a stranger would, and read what nobody else reads.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

/// The topics and subscriptions of one project.
#[derive(Clone, Debug)]
pub struct Pubsub {
    client: Client,
    base: String,
    project: String,
}

/// One message as it was pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What acknowledges it.
    pub ack_id: String,
    /// Its body.
    pub data: Vec<u8>,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// The delivery this is, counted from 1, where the subscription has a dead-letter policy; else 0.
    pub delivery_attempt: i64,
}

impl Message {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.data).context("the message is not JSON")
    }
}

impl Pubsub {
    /// The project `project` of the emulator at `host` (`host:port`).
    #[must_use]
    pub fn new(host: &str, project: &str) -> Self {
        Self { client: Client::new(), base: format!("http://{host}/v1"), project: project.to_owned() }
    }

    /// The short names of all topics, sorted.
    ///
    /// # Errors
    /// When the emulator does not answer.
    pub async fn topics(&self) -> Result<Vec<String>> {
        self.list("topics").await
    }

    /// The short names of all subscriptions, sorted.
    ///
    /// # Errors
    /// When the emulator does not answer.
    pub async fn subscriptions(&self) -> Result<Vec<String>> {
        self.list("subscriptions").await
    }

    /// One topic or subscription as the emulator describes it (`kind` is `topics` or `subscriptions`), or none.
    ///
    /// # Errors
    /// When the emulator does not answer.
    pub async fn describe(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        let answer = self.client.get(self.url(kind, name)).send().await.context("no answer")?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(answer.error_for_status()?.json().await?))
    }

    /// Creates a topic; no harm where it is.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn create_topic(&self, topic: &str) -> Result<()> {
        self.put(&self.url("topics", topic), &json!({})).await
    }

    /// Creates a subscription of a test's own on a topic; no harm where it is.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn create_subscription(&self, topic: &str, subscription: &str) -> Result<()> {
        self.put(&self.url("subscriptions", subscription), &json!({"topic": self.topic(topic)})).await
    }

    /// The same, with a dead-letter policy: after `attempts` deliveries (at least 5) a message moves to `dead_letters`.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn create_subscription_with_dead_letters(
        &self,
        topic: &str,
        subscription: &str,
        dead_letters: &str,
        attempts: u32,
    ) -> Result<()> {
        let policy = json!({"deadLetterTopic": self.topic(dead_letters), "maxDeliveryAttempts": attempts});
        let body = json!({"topic": self.topic(topic), "deadLetterPolicy": policy});
        self.put(&self.url("subscriptions", subscription), &body).await
    }

    /// The definitions of all revisions of a schema, the oldest first; none if there is no such schema.
    ///
    /// # Errors
    /// When the emulator does not answer.
    pub async fn schema_revisions(&self, schema: &str) -> Result<Vec<String>> {
        let listed = self.describe("schemas", &format!("{schema}:listRevisions?view=FULL")).await?.unwrap_or_default();
        let revisions = listed["schemas"].as_array().into_iter().flatten();
        revisions.map(|one| Ok(one["definition"].as_str().context("a definition")?.to_owned())).collect()
    }

    /// Creates an Avro schema.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn create_schema(&self, schema: &str, definition: &str) -> Result<()> {
        let url = format!("{}/projects/{}/schemas?schemaId={schema}", self.base, self.project);
        self.post::<Value>(&url, &json!({"type": "AVRO", "definition": definition})).await.map(drop)
    }

    /// Commits a further revision of a schema.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn commit_schema(&self, schema: &str, definition: &str) -> Result<()> {
        let name = format!("projects/{}/schemas/{schema}", self.project);
        let body = json!({"schema": {"name": name, "type": "AVRO", "definition": definition}});
        self.post::<Value>(&format!("{}:commit", self.url("schemas", schema)), &body).await.map(drop)
    }

    /// Creates a topic whose messages must fit a schema, as JSON.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn create_topic_with_schema(&self, topic: &str, schema: &str) -> Result<()> {
        let schema = format!("projects/{}/schemas/{schema}", self.project);
        let body = json!({"schemaSettings": {"schema": schema, "encoding": "JSON"}});
        self.put(&self.url("topics", topic), &body).await
    }

    /// Deletes a topic, subscription or schema (`kind` is `topics`, `subscriptions` or `schemas`), as an emulator that
    /// lost it would have.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn delete(&self, kind: &str, name: &str) -> Result<()> {
        self.client.delete(self.url(kind, name)).send().await?.error_for_status()?;
        Ok(())
    }

    /// Makes a subscription push to nowhere: nobody receives from it any more.
    ///
    /// # Errors
    /// When the emulator does not answer, or there is no such subscription.
    pub async fn push_to_nowhere(&self, subscription: &str) -> Result<()> {
        let url = format!("{}:modifyPushConfig", self.url("subscriptions", subscription));
        let body = json!({"pushConfig": {"pushEndpoint": "http://localhost:9/"}});
        self.post::<Value>(&url, &body).await.map(drop)
    }

    /// Publishes one message and returns its id.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn publish(&self, topic: &str, data: &[u8], attributes: &[(&str, &str)]) -> Result<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Published {
            message_ids: Vec<String>,
        }
        let attributes: BTreeMap<_, _> = attributes.iter().copied().collect();
        let message = json!({"data": BASE64_STANDARD.encode(data), "attributes": attributes});
        let published: Published =
            self.post(&format!("{}:publish", self.url("topics", topic)), &json!({"messages": [message]})).await?;
        published.message_ids.into_iter().next().context("a published message has an id")
    }

    /// Takes up to `most` messages off a subscription, without acknowledging them.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn pull(&self, subscription: &str, most: usize) -> Result<Vec<Message>> {
        let url = format!("{}:pull", self.url("subscriptions", subscription));
        let body = json!({"maxMessages": most, "returnImmediately": true});
        let pulled: Pulled = self.post(&url, &body).await?;
        pulled.received_messages.into_iter().map(Received::message).collect()
    }

    /// Acknowledges pulled messages.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn acknowledge(&self, subscription: &str, messages: &[Message]) -> Result<()> {
        let ids: Vec<&str> = messages.iter().map(|message| message.ack_id.as_str()).collect();
        let url = format!("{}:acknowledge", self.url("subscriptions", subscription));
        let _: Value = self.post(&url, &json!({"ackIds": ids})).await?;
        Ok(())
    }

    /// Gives pulled messages back, to be delivered again.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub async fn give_back(&self, subscription: &str, messages: &[Message]) -> Result<()> {
        let ids: Vec<&str> = messages.iter().map(|message| message.ack_id.as_str()).collect();
        let url = format!("{}:modifyAckDeadline", self.url("subscriptions", subscription));
        let _: Value = self.post(&url, &json!({"ackIds": ids, "ackDeadlineSeconds": 0})).await?;
        Ok(())
    }

    async fn list(&self, kind: &str) -> Result<Vec<String>> {
        let url = format!("{}/projects/{}/{kind}?pageSize=1000", self.base, self.project);
        let listed: Value = self.client.get(url).send().await?.error_for_status()?.json().await?;
        let mut names: Vec<String> = listed[kind]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| Some(one["name"].as_str()?.rsplit('/').next()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    async fn put(&self, url: &str, body: &Value) -> Result<()> {
        let answer = self.client.request(Method::PUT, url).json(body).send().await?;
        let status = answer.status();
        if !status.is_success() && status != StatusCode::CONFLICT {
            bail!("PUT {url}: {status} {}", answer.text().await.unwrap_or_default());
        }
        Ok(())
    }

    async fn post<T: serde::de::DeserializeOwned>(&self, url: &str, body: &Value) -> Result<T> {
        let answer = self
            .client
            .post(url)
            .timeout(Duration::from_secs(30))
            .json(body)
            .send()
            .await
            .with_context(|| format!("no answer to POST {url}"))?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            bail!("POST {url}: {status} {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("POST {url} answered {text}"))
    }

    fn topic(&self, name: &str) -> String {
        format!("projects/{}/topics/{name}", self.project)
    }

    fn url(&self, kind: &str, name: &str) -> String {
        format!("{}/projects/{}/{kind}/{name}", self.base, self.project)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Pulled {
    received_messages: Vec<Received>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Received {
    ack_id: String,
    message: Body,
    #[serde(default)]
    delivery_attempt: i64,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    data: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

impl Received {
    fn message(self) -> Result<Message> {
        Ok(Message {
            ack_id: self.ack_id,
            data: BASE64_STANDARD.decode(self.message.data).context("a message's data is base64")?,
            attributes: self.message.attributes,
            delivery_attempt: self.delivery_attempt,
        })
    }
}
