-- The same text runs on SQLite and on PostgreSQL. Times are microseconds since the Unix epoch.

-- Messages that could not be handled or published, each once, for as long as nobody removes them.
create table dead_letter (
    id text constraint dead_letter_pkey primary key,
    -- Where the message belongs.
    topic text not null,
    -- What it was taken from: subscription, dead_letter_topic or outbox.
    source text not null,
    -- The broker's id, or that of the outbox row.
    message_id text not null,
    published_at bigint not null,
    -- malformed, refused, exhausted or undeliverable.
    reason text not null,
    detail text not null,
    -- open, redriven or discarded.
    state text not null,
    request_id text,
    -- What is kept of the body; the whole had payload_bytes.
    payload bytea not null,
    payload_bytes bigint not null,
    -- A JSON object, without those that were too many.
    attributes text not null,
    attributes_dropped bigint not null,
    -- How often it came to grief: 1, and once more for each time that it was redriven in vain.
    attempts bigint not null,
    first_failed_at bigint not null,
    last_failed_at bigint not null,
    redriven_at bigint,
    discarded_at bigint,
    -- A broker that starts from nothing counts its ids from 1 again: the time tells them apart.
    constraint dead_letter_message_once unique (topic, source, message_id, published_at)
);

create index dead_letter_open on dead_letter (topic, id) where state = 'open';

-- A message that is redriven has its body there and not here.
alter table outbox add column dead_letter_id text constraint outbox_dead_letter_fkey references dead_letter (id);
