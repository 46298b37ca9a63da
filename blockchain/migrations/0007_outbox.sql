-- The same text runs on SQLite and on PostgreSQL.

-- Messages that were committed together share a row: an array of [id, request_id, body, attributes], and request_id, data
-- and attributes of the row say nothing. A redriven message has a row by itself, in the old form, as have those that
-- processes of the version before still write.
alter table outbox add column messages text;
drop index outbox_by_request;
