-- A store as it was before the ledger: after migration 3, with grants in every state that there was. The same text runs on
-- SQLite and on PostgreSQL.

insert into deployment (singleton, issuer, next_grant_index) values (1, 42, 8);

insert into token_grant (request_id, grant_index, user_id, campaign_id, wallet_address, token_amount, state,
                         transaction_hash, block_number, error_code, error_message, retry_count, round_began, traceparent,
                         requested_at, updated_at, completed_at, publish_again_at, needs_attention_since)
values
('g-waits', 0, 'alice', 'summer', null, 100, 'requested', null, null, null, null, 0, 0,
 '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
 1600000000000001, 1600000000000001, null, 1600000060000001, null),
('g-sent', 1, 'bob', 'summer', '0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed', 7, 'submitted',
 '0x0000000000000000000000000000000000000000000000000000000000000002', null, null, null, 1, 0, null,
 1600000001000000, 1600000063000000, null, 1600000181000000, null),
('g-paid', 2, 'carol', 'summer', null, 5, 'completed',
 '0x0000000000000000000000000000000000000000000000000000000000000003', 77, null, null, 0, 0, null,
 1600000002000000, 1600000005000000, 1600000005000000, null, null),
('g-failed', 3, 'carol', 'winter', null, 100, 'failed', null, null, 'rejected_by_token', 'the token said no', 0, 0, null,
 1600000003000000, 1600000006000000, 1600000006000000, null, null),
('g-stuck', 4, 'dave', 'winter', null, 100, 'requested', null, null, null, null, 2, 0, null,
 1600000004000000, 1600000004000000, null, null, 1600000424000000),
('g-redriven', 5, 'erin', 'winter', null, 100, 'requested', null, null, null, null, 3, 2, null,
 1600000004500000, 1600000004500000, null, 1600000560000000, null),
('g-late', 6, 'frank', 'été ''26', null, 1, 'completed',
 '0x0000000000000000000000000000000000000000000000000000000000000004', 80, null, null, 0, 0, null,
 1600000004600000, 1600000600000000, 1600000600000000, null, null),
('g-redriven-and-retried', 7, 'grace', 'winter', null, 2, 'requested', null, null, null, null, 2, 1, null,
 1600000004700000, 1600000004700000, null, 1600000999000000, null);

insert into idempotency_key (idempotency_key, request_id)
values ('order-1', 'g-waits'), ('order-3', 'g-paid'), ('order-3 again', 'g-paid'), ('ключ', 'g-late');

insert into grant_event (id, request_id, kind, at, data)
values
('01', 'g-waits', 'requested', 1600000000000001,
 '{"campaign_id":"summer","token_amount":100,"user_id":"alice","wallet_address":null}'),
('02', 'g-sent', 'requested', 1600000001000000,
 '{"campaign_id":"summer","token_amount":7,"user_id":"bob","wallet_address":"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"}'),
('03', 'g-paid', 'requested', 1600000002000000,
 '{"campaign_id":"summer","token_amount":5,"user_id":"carol","wallet_address":null}'),
('04', 'g-failed', 'requested', 1600000003000000,
 '{"campaign_id":"winter","token_amount":100,"user_id":"carol","wallet_address":null}'),
('05', 'g-stuck', 'requested', 1600000004000000,
 '{"campaign_id":"winter","token_amount":100,"user_id":"dave","wallet_address":null}'),
('06', 'g-redriven', 'requested', 1600000004500000,
 '{"campaign_id":"winter","token_amount":100,"user_id":"erin","wallet_address":null}'),
('07', 'g-late', 'requested', 1600000004600000,
 '{"campaign_id":"été ''26","token_amount":1,"user_id":"frank","wallet_address":null}'),
('08', 'g-redriven-and-retried', 'requested', 1600000004700000,
 '{"campaign_id":"winter","token_amount":2,"user_id":"grace","wallet_address":null}'),
('09', 'g-paid', 'completed', 1600000005000000,
 '{"block_number":77,"gas_used":26000,"processed_at":"2020-09-13T12:26:44Z","transaction_hash":"0x0000000000000000000000000000000000000000000000000000000000000003","wallet_address":null}'),
('10', 'g-failed', 'failed', 1600000006000000,
 '{"error_code":"rejected_by_token","error_message":"the token said no","processed_at":"2020-09-13T12:26:45Z"}'),
('11', 'g-sent', 'submitted', 1600000030000000,
 '{"transaction_hash":"0x0000000000000000000000000000000000000000000000000000000000000001"}'),
('12', 'g-sent', 'published_again', 1600000061000000, '{"retry_count":1}'),
('13', 'g-sent', 'submitted', 1600000063000000,
 '{"transaction_hash":"0x0000000000000000000000000000000000000000000000000000000000000002"}'),
('14', 'g-stuck', 'published_again', 1600000064000000, '{"retry_count":1}'),
('15', 'g-redriven-and-retried', 'published_again', 1600000065000000, '{"by":"operator","retry_count":1}'),
('16', 'g-stuck', 'published_again', 1600000184000000, '{"retry_count":2}'),
('17', 'g-redriven', 'published_again', 1600000185000000, '{"retry_count":1}'),
('18', 'g-redriven', 'needs_attention', 1600000300000000, '{"reason":"no result came","retry_count":1}'),
('19', 'g-redriven', 'published_again', 1600000310000000, '{"by":"operator","retry_count":2}'),
('20', 'g-redriven', 'published_again', 1600000320000000, '{"retry_count":3}'),
('21', 'g-stuck', 'needs_attention', 1600000424000000, '{"reason":"no result came","retry_count":2}'),
('22', 'g-late', 'failed', 1600000500000000,
 '{"error_code":"expired","error_message":"too slow","processed_at":"2020-09-13T12:35:00Z"}'),
('23', 'g-late', 'completed', 1600000600000000,
 '{"block_number":80,"gas_used":null,"processed_at":"2020-09-13T12:36:39Z","transaction_hash":"0x0000000000000000000000000000000000000000000000000000000000000004","wallet_address":null}'),
('24', 'g-redriven-and-retried', 'published_again', 1600000601000000, '{"retry_count":2}'),
('25', 'g-paid', 'failed', 1600000602000000,
 '{"error_code":null,"error_message":"a report that came too late","processed_at":"2020-09-13T12:26:46Z"}');

insert into outbox (id, topic, request_id, data, attributes, created_at)
values ('01', 'token-grant-requests', 'g-waits',
        '{"event_type":"token.grant.requested","user_id":"alice","campaign_id":"summer","token_amount":100,"token_type":"ERC20","request_id":"g-waits","timestamp":"2020-09-13T12:26:40.000001Z","retry_count":0,"issuer":"000000000000002a","grant_index":0}',
        '{"event_type":"token.grant.requested"}', 1600000000000001);
